"""Games: two answers to one prompt, shown to a judge, and the verdicts."""
