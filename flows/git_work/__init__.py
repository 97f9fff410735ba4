"""Worktrees for runs, and the branches with their results."""
