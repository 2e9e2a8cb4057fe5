"""Parts of serving a model version that do not depend on what runs its graph."""
