"""The registry's log: names, entries, history, and the evidence that entries carry."""
