"""The demo's preference pairs."""
