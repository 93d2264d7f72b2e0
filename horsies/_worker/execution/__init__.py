"""Running the function of a task, in the nursery, a thread or a process."""
