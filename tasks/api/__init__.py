"""The pipeline as a library: what Python code outside this checkout imports."""
