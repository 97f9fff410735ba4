"""Judges of answers: their protocols, their kinds, the games they decide, and how far each may be believed."""
