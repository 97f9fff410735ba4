"""Rows that were computed once, kept under the hash of what they depend on."""
