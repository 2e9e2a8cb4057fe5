"""The command line. Each module here is one group of verbs; all they know comes from `penstock.client`."""

from penstock.client.cli.main import app

main = app
