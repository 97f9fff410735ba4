"""The heart: policy, plan, log-probabilities, objectives, checkpoints and the trainer."""
