"""From rows of the database to tasks that begin: how much to claim, and when."""
