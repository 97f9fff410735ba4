"""Whether evidence is good enough to promote."""
