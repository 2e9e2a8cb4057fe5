"""Site: answers with the cloud gone, from what was proven to it."""
