"""Files of a program that runs: some are gone when they are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path) -> Iterator[Path]:
    """Yields all folders and files below it, without following links."""
    for where, folders, files in os.walk(folder):
        yield from (Path(where, name) for name in (*folders, *files))
