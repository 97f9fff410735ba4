"""The judge that `winrate.judge` names."""
