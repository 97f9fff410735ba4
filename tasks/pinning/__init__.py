"""The base model's sources: a snapshot of the hub, a folder in transformers' format, the demo's own model."""
