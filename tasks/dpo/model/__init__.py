"""The base model and its adapter: loading, precision, sharding over ranks."""
