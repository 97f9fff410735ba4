"""Whether pairs are fit to train on: expectations, personal data and secrets, languages."""
