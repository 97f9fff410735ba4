"""The demo's tiny base model, its text and its tokenizer."""
