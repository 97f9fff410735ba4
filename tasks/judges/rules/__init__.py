"""Judges without a model: rules on text, and the controls, which ignore quality."""
