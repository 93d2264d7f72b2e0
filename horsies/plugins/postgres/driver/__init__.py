"""psycopg on any event loop: connections, sessions, transactions and errors. Nothing in here knows a task."""
