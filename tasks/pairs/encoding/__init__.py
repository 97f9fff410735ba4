"""From pairs to token ids: chat template, tokenizer, boundary, truncation."""
