"""The row store's upkeep: merges small segments and checks every byte."""
