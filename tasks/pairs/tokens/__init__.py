"""The token cache that encode writes and the later stages read."""
