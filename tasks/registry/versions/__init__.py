"""Versions: written whole, read verified, never changed."""
