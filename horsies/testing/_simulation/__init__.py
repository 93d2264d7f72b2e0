"""The parts of `horsies.testing.simulation`: the network to the broker, and Trio made deterministic."""
