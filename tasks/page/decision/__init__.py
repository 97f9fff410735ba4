"""The page of the gate's decision, made when a version is registered."""
