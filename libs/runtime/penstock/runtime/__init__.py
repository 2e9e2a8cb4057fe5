"""Parts that every service is built from."""
