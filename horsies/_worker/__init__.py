"""Claiming, running and finishing tasks."""
