"""Manifest of a model package (`manifest.json`): name, size and sha256 of every other file.

It is canonical JSON, and its own sha256 is the package's digest. So the digest covers every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Invalid, Tampered
from penstock.packages.parts import CURVES, PIPELINE, PROFILE, SIGNATURE, TRAINING_SET, Part

FORMAT = "penstock.package.v1"

MANIFEST = "manifest.json"
MODEL = "model.onnx"
METRICS = "metrics.json"
MODEL_CARD = "model_card.md"
REQUIRED = frozenset({MODEL, PIPELINE, SIGNATURE, METRICS, TRAINING_SET, PROFILE, CURVES, MODEL_CARD})
"""Files that every package has; the manifest may list more."""

MAX_FILES = 64
MAX_MANIFEST_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class FileEntry(Part):
    sha256: str = Field(pattern=r"[0-9a-f]{64}")
    size: int = Field(ge=0)  # Bytes


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["penstock.package.v1"]
    files: dict[str, FileEntry]


def is_plain_name(name: str) -> bool:
    """Allows only letters, digits, `_`, `.`, `-`, and neither dot nor dash first: no folder, no way
    out of one.
    """
    return _NAME.fullmatch(name) is not None


def canonical(value: JsonValue | dict[str, float]) -> bytes:
    """Canonical JSON: keys sorted, no spaces, UTF-8. Equal values give equal bytes. Raises
    ValueError for NaN and infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def read_manifest(directory: Path, digest: str | None = None) -> tuple[Manifest, str]:
    """Reads a package's manifest, which must have `digest` where it is given, and returns it with
    its digest. Raises Tampered for anything but a manifest that `write_manifest` could have
    written.
    """
    content = _content(directory / MANIFEST)
    found = digest_of(content)
    if digest is not None and found != digest:
        raise Tampered(f"this is package {found}, not {digest}", where=MANIFEST)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise Tampered(f"no manifest of {FORMAT}: {error.errors()[0]['msg']}", where=MANIFEST) from error
    if canonical(manifest.model_dump(mode="json")) != content:
        raise Tampered("the manifest is not canonical JSON", where=MANIFEST)
    if len(manifest.files) > MAX_FILES:
        raise Tampered(f"more than {MAX_FILES} files", where=MANIFEST)
    for name in manifest.files:
        if name == MANIFEST or not is_plain_name(name):
            raise Tampered(f"{name!r} may not be in a package", where=MANIFEST)
    if missing := sorted(REQUIRED - manifest.files.keys()):
        raise Tampered("the manifest does not list this file", where=missing[0])
    return manifest, found


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compares the files in `directory` with the manifest: each size and hash, and that nothing
    else lies there. Raises Tampered that names the file.
    """
    with os.scandir(directory) as entries:
        present = {entry.name for entry in entries}
    if extra := sorted(present - manifest.files.keys() - {MANIFEST}):
        raise Tampered("the manifest does not list this file", where=extra[0])
    for name, entry in sorted(manifest.files.items()):
        if name not in present:
            raise Tampered("the file is missing", where=name)
        if _entry_of(directory / name) != entry:
            raise Tampered("the file is not the one that the manifest lists", where=name)


def write_manifest(directory: Path) -> str:
    """Writes the manifest of the files in `directory`. Returns the digest. Raises Invalid."""
    files: dict[str, FileEntry] = {}
    for path in sorted(directory.iterdir()):
        if path.name == MANIFEST:
            continue
        if not is_plain_name(path.name) or path.is_symlink() or not path.is_file():
            raise Invalid("a package holds plain files only", where=path.name)
        files[path.name] = _entry_of(path)
    if missing := sorted(REQUIRED - files.keys()):
        raise Invalid(f"the package lacks {', '.join(missing)}", where=str(directory))
    if len(files) > MAX_FILES:
        raise Invalid(f"more than {MAX_FILES} files", where=str(directory))
    content = canonical(Manifest(format=FORMAT, files=files).model_dump(mode="json"))
    (directory / MANIFEST).write_bytes(content)
    return digest_of(content)


def _content(path: Path) -> bytes:
    try:
        status = path.lstat()
    except OSError as error:
        raise Tampered("no package: there is no manifest", where=str(path)) from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        raise Tampered("the manifest must be a regular, small file", where=MANIFEST)
    return path.read_bytes()


def _entry_of(path: Path) -> FileEntry:
    """Size and hash of a regular file; symbolic links, folders and devices are refused without
    being followed or opened for long. Raises Tampered.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Tampered("the file is a link or cannot be read", where=path.name) from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Tampered("not a regular file", where=path.name)
        digest = hashlib.file_digest(file, "sha256")
        return FileEntry(sha256=digest.hexdigest(), size=file.tell())
