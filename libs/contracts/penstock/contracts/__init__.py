"""Events, topic catalogue, pipeline file and errors: data only."""
