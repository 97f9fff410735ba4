"""What was released, and on what evidence: entries, the gate, the store and lineage."""
