"""Observers of training: speed, the bar, curves for trackers and Prometheus, the heap. No result depends on them."""
