"""What fits on this machine: the plan of steps and micro-batches, memory, operations."""
