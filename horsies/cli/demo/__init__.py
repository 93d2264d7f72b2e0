"""`horsies demo`."""
