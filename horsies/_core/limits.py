"""What one statement carries, and with it how much waits in memory for a database that is slower than its users."""

SEND_ROWS = 1_000
"""Tasks that one statement inserts."""
STATEMENT_BYTES = 4 * 1024 * 1024
"""Bytes of payloads or results in one statement; one that is larger stands alone."""
