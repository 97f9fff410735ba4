"""Commands that leave no process behind."""
