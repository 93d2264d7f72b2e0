"""Declaring tasks, sending them, and the handles that come back."""
