"""Models, events and predictions at a site, and the hub that sites reach."""
