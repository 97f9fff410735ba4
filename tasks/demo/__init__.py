"""The built-in demo: its preference pairs and its tiny base model."""
