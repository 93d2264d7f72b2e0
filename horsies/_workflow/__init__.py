"""Workflows: which nodes run, and what becomes of the whole."""
