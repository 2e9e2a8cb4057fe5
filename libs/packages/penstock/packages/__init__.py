"""Model package: format, digest, signatures, evidence."""
