"""How far a judge agrees with labelled pairs, before it judges any answer."""
