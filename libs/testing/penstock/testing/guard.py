"""Takes a stack down when the test process that owns it is gone, however it went: `python -m
penstock.testing.guard HOME`.

It waits for the end of its standard input, a pipe that the owner holds and never writes to.
"""

from __future__ import annotations

import sys
from pathlib import Path

from penstock.stack.stack import down

if __name__ == "__main__":
    sys.stdin.read()
    down(Path(sys.argv[1]))
