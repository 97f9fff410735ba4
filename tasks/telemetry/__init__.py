"""What tells and never decides: logs, progress, receipts, provenance. No stage depends on it."""
