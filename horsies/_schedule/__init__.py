"""Schedules: which instants they fall on, which of those are due, and who enqueues their tasks."""
