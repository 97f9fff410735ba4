"""What every stage may use: params, paths, errors, files, ranks, versions, the base model."""
