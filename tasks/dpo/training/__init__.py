"""The trainer: loop, step, schedule, checkpoints."""
