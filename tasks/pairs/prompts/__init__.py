"""Prompts that are answered beside the held-out ones."""
