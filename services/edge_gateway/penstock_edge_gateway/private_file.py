"""Files that only their owner reads: secrets, and all that a site keeps."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Writes a file durably; it is 0600 from its first byte. Without `replace` one that is there stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, path)
        else:
            with suppress(FileExistsError):  # another replica made it at the same moment
                os.link(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # which has the file's name
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
