"""Where the registry's bytes are: a folder or a bucket, with create-if-absent."""
