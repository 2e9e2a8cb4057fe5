"""Families, a module each, named by its type, that holds `FAMILY`. `penstock.modelkit.family` finds them."""
