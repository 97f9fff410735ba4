"""Benchmarks of lm-evaluation-harness on the base and on the adapter."""
