"""What follows from each end of a task in a workflow."""
