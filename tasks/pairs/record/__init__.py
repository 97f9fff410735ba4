"""What a preference pair is, and pairs on disk."""
