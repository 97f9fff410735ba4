"""Token pairs beside their reference log-probabilities."""
