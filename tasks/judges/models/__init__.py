"""Scorers that are models: a head on the base's hidden states, a reward model, and one at an endpoint."""
