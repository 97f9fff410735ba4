"""What judges see and say: the pair judge, the scorer, and what each returns."""
