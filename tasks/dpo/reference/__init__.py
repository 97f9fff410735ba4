"""The pass that scores the fixed reference, and what names its rows."""
