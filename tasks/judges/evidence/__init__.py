"""From verdicts to evidence: the answers that are judged, guards, leakage, and the files that are written."""
