"""The DVC project: its graph of stages, the forecast, new data, and the run of one stage."""
