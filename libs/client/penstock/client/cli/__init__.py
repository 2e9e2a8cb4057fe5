"""The command line. The modules that `main` imports are groups of verbs, the others parts of what those
print; all they know comes from `penstock.client`.
"""

import gc
import io
import signal
import sys
import threading

if sys.stdout is None:  # closed by who called
    sys.stdout = io.StringIO()
# Nothing has begun: Ctrl-C ends it without a traceback of what was being loaded.
_interruptible = threading.current_thread() is threading.main_thread()
_interruptible = _interruptible and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
_collecting = gc.isenabled()  # not so where whoever imports this does the same
gc.disable()  # What modules make as they load stays: to search it for garbage was a third of a start.
from penstock.client.cli.main import app  # noqa: E402

if _collecting:
    gc.freeze()
    gc.enable()
if _interruptible:
    signal.signal(signal.SIGINT, signal.default_int_handler)

main = app
