"""What reports and never decides: logs, progress, receipts, provenance. No stage depends on it."""
