"""A copy of the repository, for tests that change its files and run its checks there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
SET_UP = (".venv", ".venv-triton", ".cache")
"""Folders that `make setup` fills."""
MAKE_WITHIN_S = 600.0


def copied(folder: Path) -> Path:
    """Copies the files that git knows or would take, as they stand. What `make setup` made is shared."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in SET_UP:
        (folder / name).symlink_to(ROOT / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Environment variables with which Python takes the copy's own sources, new members included."""
    members = sorted(str(path.parent) for path in folder.glob("*/*/pyproject.toml"))
    inherited = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return inherited | {"PYTHONPATH": os.pathsep.join(members)}


def make(folder: Path, target: str, within: float = MAKE_WITHIN_S) -> tuple[int, str]:
    """Exit code and output of `make TARGET` there, without its set-up."""
    done = subprocess.run(
        ["make", "--old-file", "setup", target],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
