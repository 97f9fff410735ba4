"""What a preference is: schema, sources, formats, split, chat template, token cache."""
