"""Who won: the judge protocol, the rule judge and the statistics of a win rate."""
