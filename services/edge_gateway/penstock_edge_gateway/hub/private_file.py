"""Files of secrets that the hub makes once, or replaces whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, content: Mapping[str, str], *, replace: bool) -> None:
    """Writes durably, 0600 from the first byte. Without `replace`, a file that is there stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, path)
        else:
            os.link(beside, path)
    except FileExistsError:
        pass  # another replica made it at the same moment
    finally:
        Path(beside).unlink(missing_ok=True)
