"""The command line. Each module here is one group of verbs; all they know comes from `penstock.client`."""

import gc
import io
import sys

if sys.stdout is None:  # closed by who called
    sys.stdout = io.StringIO()
gc.disable()  # What modules make as they load stays: to search it for garbage was a third of a start.
from penstock.client.cli.main import app  # noqa: E402

gc.freeze()
gc.enable()

main = app
