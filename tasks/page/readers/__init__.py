"""Readers of the outputs of the earlier stages; a missing or wrong key is an error."""
