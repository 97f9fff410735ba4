"""Objects in an S3 bucket, for the row store and the registry."""
