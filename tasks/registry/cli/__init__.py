"""`python -m tasks.registry`, command by command."""
