"""The model package: format, digest, signatures, evidence."""
