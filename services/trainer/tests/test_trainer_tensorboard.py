"""Event files as TensorBoard reads them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.contracts.errors import Unavailable
from penstock.runtime.settings import Platform
from penstock_trainer.settings import Settings
from penstock_trainer.tensorboard import Session, _checksum, write

SESSION = Session(
    1_800_000_000.0,
    1_800_000_009.0,
    {"mlp.model.dropout": 0.25, "hidden": [64, 32], "model.type": "mlp", "flag": True},
    {"validation_loss": 0.5},
    {"train_loss": [(1, 1_800_000_001.0, 0.75), (200, 1_800_000_002.0, 0.5)]},
)
READ = "b66a1af0a485ac383f805c748040b10c6bde4a6438664b16fe84408bc593ea62"
"""Digest of the session's file, which TensorBoard 2.21 was seen to read: every scalar with its step,
and the values and the status on its page HParams.
"""


def written(folder: Path, session: Session = SESSION) -> bytes:
    write(folder, session)
    (file,) = folder.iterdir()
    assert "tfevents" in file.name, "what TensorBoard looks for"
    return file.read_bytes()


def contents(records: bytes) -> Iterator[bytes]:
    """Contents of the records; fails where a checksum is not that of what it follows."""
    while records:
        (length,) = struct.unpack("<Q", records[:8])
        assert records[8:12] == _checksum(records[:8])
        content, checksum = records[12 : 12 + length], records[12 + length : 16 + length]
        assert checksum == _checksum(content)
        yield content
        records = records[16 + length :]


def test_a_session_is_written_as_tensorboard_was_seen_to_read_it(tmp_path: Path) -> None:
    assert hashlib.sha256(written(tmp_path)).hexdigest() == READ
    write(tmp_path, SESSION)
    assert len([*tmp_path.iterdir()]) == 1, "again in its place"


def test_files_lie_in_the_services_own_folder(tmp_path: Path) -> None:
    """A container may write nowhere else."""
    settings = Settings(platform=Platform(home=tmp_path))
    assert settings.tensorboard_dir.is_relative_to(settings.data_dir)
    write(settings.tensorboard_dir / "loans" / "01A", SESSION)


def test_every_record_is_whole_and_names_what_it_holds(tmp_path: Path) -> None:
    version, start, *scalars, end = contents(written(tmp_path))
    assert b"brain.Event:2" in version
    assert all(name.encode() in start for name in SESSION.values)
    assert [b"train_loss" in one for one in scalars] == [True, True, False]
    assert b"_hparams_/session_end_info" in end


def test_the_checksum_is_castagnolis_masked() -> None:
    crc = 0xE3069283  # of these digits: RFC 3720, appendix B.4, and everybody since
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)


def test_what_cannot_be_written_now_may_be_written_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be written"):
        write(tmp_path / "file", SESSION)
