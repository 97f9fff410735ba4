"""Judges of answers: the protocol, the rule judge, control judges, guards, and the statistics of a win rate."""
