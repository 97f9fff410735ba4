"""Worktrees that runs work in, and the branches that they push."""
