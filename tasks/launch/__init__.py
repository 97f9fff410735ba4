"""How a stage starts and ends: its door, and one process a GPU. No stage depends on it."""
