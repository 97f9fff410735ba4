"""What DVC knows: the graph of stages, the forecast, new data, one stage run."""
