"""One module a family, named by its type; each holds `FAMILY`. `penstock.modelkit.family` finds them."""
