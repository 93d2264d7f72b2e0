"""What a send consists of: ids, the envelope and its SHA, typed values to bytes and back."""
