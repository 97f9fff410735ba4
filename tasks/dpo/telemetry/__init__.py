"""What training tells while it runs: speed, curves for trackers and Prometheus. No stage depends on it."""
