"""Register, promote, roll back, retire: what changes the registry."""
