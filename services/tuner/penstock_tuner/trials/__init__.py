"""Trials: one configuration fitted and measured, on the train and validation parts of a study."""
