"""Archive of a package: a tar that is the same byte for byte whenever the package is the same.

Not compressed: weights hardly shrink, and a decompressor is one more thing to bound. Unpacking
trusts nothing: names, kinds and sizes are checked before a byte is written, and the end marks must
be there, so that a cut-off archive is told from a short one.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from penstock.contracts.errors import Tampered, TooLarge
from penstock.packages.manifest import MAX_FILES, is_plain_name

PACKAGE_FOLDER = "package"
MODEL_SIGNATURE = "model.sig"
_CHUNK_BYTES = 1 << 20
_END_BYTES = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Limits:
    files: int = MAX_FILES + 1  # Largest number of files, the manifest included
    bytes: int = 2 << 30  # Largest size of all files together


def pack(directory: Path, archive: Path) -> None:
    """Writes the package's files, in order of their names, to `archive`: the package artifact."""
    _write({path.name: path for path in directory.iterdir()}, archive)


def pack_signed(directory: Path, signature: Path, archive: Path) -> None:
    """Writes `package/…` with `model.sig` beside it, for people: the OpenSSF tools verify it so."""
    files = {f"{PACKAGE_FOLDER}/{path.name}": path for path in directory.iterdir()}
    _write({**files, MODEL_SIGNATURE: signature}, archive)


def unpack(archive: Path, directory: Path, limits: Limits | None = None) -> None:
    """Unpacks what `pack` or `pack_signed` made into `directory`, which must be empty or missing.

    Raises Tampered for anything but plain files with plain names, for a cut-off archive and for
    bytes after its end; TooLarge beyond the limits. `open_package` is still to be called: this only
    makes it safe to look.
    """
    limits = limits or Limits()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise Tampered("will not unpack over other files", where=str(directory))
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _extract(tar, directory, limits)
            file.seek(tar.offset)
            _check_end(file)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Tampered(f"no whole tar archive: {error}", where=archive.name) from error


def _write(files: Mapping[str, Path], archive: Path) -> None:
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            member.mode = 0o644
            with path.open("rb") as content:
                tar.addfile(member, content)


def _extract(tar: tarfile.TarFile, directory: Path, limits: Limits) -> None:
    sizes: dict[str, int] = {}
    for member in tar:
        if not member.isreg() or member.issparse() or member.pax_headers or not _may_lie_there(member.name):
            raise Tampered(f"{member.name!r} is no plain file of a package")
        if member.name in sizes:
            raise Tampered(f"{member.name!r} is there twice")
        sizes[member.name] = member.size
        if len(sizes) > limits.files or sum(sizes.values()) > limits.bytes:
            raise TooLarge(f"the package has more than {limits.files} files or {limits.bytes} bytes")
        source = tar.extractfile(member)
        assert source is not None  # a regular file
        path = directory / member.name
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)  # raises ReadError where it is cut off


def _may_lie_there(name: str) -> bool:
    """Allows plain names, and those in the folder that `pack_signed` makes."""
    folder, slash, file = name.rpartition("/")
    return is_plain_name(file) and file != PACKAGE_FOLDER and folder == (PACKAGE_FOLDER if slash else "")


def _check_end(file: IO[bytes]) -> None:
    rest = 0
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise Tampered("there is something after the archive's end")
        rest += len(chunk)
    if rest < _END_BYTES:
        raise Tampered("the archive is cut off")
