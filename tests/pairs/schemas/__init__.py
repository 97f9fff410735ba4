"""Schemas of published preference data: made-up rows in each, with the pairs that they hold."""
