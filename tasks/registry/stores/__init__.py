"""Where the registry's bytes lie: a folder or a bucket, with create-if-absent."""
