"""Sending tasks, and the handles that come back."""
