"""What a preference is: schema, sources, formats, split, chat template, tokens and their cache."""
