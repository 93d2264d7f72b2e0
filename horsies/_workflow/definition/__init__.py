"""What a workflow consists of: built, checked and frozen."""
