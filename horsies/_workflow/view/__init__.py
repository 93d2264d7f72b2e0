"""What can be seen of a workflow: its results, its nodes, its picture."""
