"""What an application declares: tasks, workflows and schedules."""
