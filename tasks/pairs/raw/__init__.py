"""What a row is before it is a pair: its cells, its texts, the columns that nothing reads."""
