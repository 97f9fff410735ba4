"""Answers sampled from the policy and its opponents."""
