"""Benchmarks, run by hand: this trainer and its peers on the same pairs, adapters and steps."""
