"""Readers of what the earlier stages wrote, strict about every key."""
