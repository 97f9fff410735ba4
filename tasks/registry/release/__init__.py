"""Register, promote, roll back, deprecate, collect: what changes the registry."""
