"""The hall that every stage passes through: params, paths, errors, files, ranks, log, provenance."""
