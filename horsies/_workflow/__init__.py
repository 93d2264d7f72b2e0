"""Workflows: what one consists of, and what follows from each end of a task in it."""
