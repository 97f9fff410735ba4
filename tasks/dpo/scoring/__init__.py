"""Log-probabilities of completion tokens: layout, attention, LoRA layers, head."""
