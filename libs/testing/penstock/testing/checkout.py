"""A copy of the repository, for tests that change its files and run its checks there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
SET_UP = (".venv", ".venv-triton", ".cache")  # filled by `make setup`
MAKE_WITHIN_S = 600.0
BLOCK = re.compile(r"```python\n# (?P<path>\S+)\n(?P<text>.*?)```", re.DOTALL)
"""A file of a page: its path in the first line."""
CHANGE = re.compile(r"```diff\n# (?P<path>\S+)\n(?P<lines>.*?)```", re.DOTALL)
"""A change of a page to a file that there is, as a diff without line numbers."""


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


def copied_members(folder: Path, members: Iterable[str]) -> Path:
    """Copies some members whole, as `libs/contracts`; the others are the repository's own."""
    for member in members:
        shutil.copytree(ROOT / member, folder / member, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def follow(page: str, folder: Path, *, union: str, keys: str) -> set[str]:
    """Does in a copy what a page says that adds one more type: its block of the file `keys` ends with
    the new definition of `union`, the other blocks are new files. Returns the files of its blocks.
    """
    blocks = {found["path"]: found["text"] for found in BLOCK.finditer((ROOT / page).read_text())}
    table = folder / keys
    (old,) = re.findall(rf"^{union} = .*$", table.read_text(), re.MULTILINE)
    table.write_text(table.read_text().replace(old, blocks[keys].strip()))
    for path in blocks.keys() - {keys}:
        assert not (folder / path).exists()
        (folder / path).write_text(blocks[path])
    return set(blocks)


def change(text: str, folder: Path) -> set[str]:
    """Makes a page's changes in a copy; returns their files. Raises AssertionError where a file has not,
    exactly once, what is to be changed.
    """
    found = list(CHANGE.finditer(text))
    for each in found:
        before, after = (_side(each["lines"], sign) for sign in "-+")
        now = (folder / each["path"]).read_text()
        assert now.count(before) == 1, f"{each['path']} has not, once:\n{before}"
        (folder / each["path"]).write_text(now.replace(before, after))
    return {each["path"] for each in found}


def _side(lines: str, sign: str) -> str:
    """A side of a diff: the lines that stay, and those with the sign."""
    return "".join(line[1:] for line in lines.splitlines(keepends=True) if line[0] in (" ", sign))


def environment(folder: Path) -> dict[str, str]:
    """Environment variables with which Python takes the copy's own sources, new members included."""
    members = sorted(str(path.parent) for path in folder.glob("*/*/pyproject.toml"))
    inherited = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return inherited | {"PYTHONPATH": os.pathsep.join(members)}


def make(folder: Path, target: str, within: float = MAKE_WITHIN_S) -> tuple[int, str]:
    """Exit code and output of `make TARGET` there, without its set-up."""
    return _ran(folder, ["make", "--old-file", "setup", target], within)


def run_tests(folder: Path, *arguments: str, within: float = MAKE_WITHIN_S) -> tuple[int, str]:
    """Exit code and output of pytest in the copy, on its own tests and sources."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    places: list[str | Path] = ["-c", ROOT / "pyproject.toml", "--rootdir", folder]
    return _ran(folder, [*pytest, *places, *arguments], within)


def _ran(folder: Path, command: Sequence[str | Path], within: float) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
