"""Training sets: joined, split, kept; and when a run is due."""
