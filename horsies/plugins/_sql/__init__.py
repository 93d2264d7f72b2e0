"""What brokers that speak SQL have in common."""
