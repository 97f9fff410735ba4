"""The base model's sources: a snapshot of the hub, and a folder in transformers' format."""
