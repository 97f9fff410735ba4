"""The win rate as a metric for `evaluate.load("tasks/judges/win_rate")`."""
