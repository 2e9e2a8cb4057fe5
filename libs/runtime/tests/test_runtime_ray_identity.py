from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from penstock.runtime.ray_identity import own_names, write_identity


def context(folder: Path, purpose: int) -> ssl.SSLContext:
    """What Ray makes of the files: each side asks for the other's certificate."""
    made = ssl.SSLContext(purpose)
    made.load_verify_locations(folder / "authority.pem")
    made.load_cert_chain(folder / "node.pem", folder / "node.key")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def meet(caller: Path, called: Path, name: str) -> None:
    """A TLS handshake in memory. Raises ssl.SSLError where one of the two refuses."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(caller, ssl.PROTOCOL_TLS_CLIENT).wrap_bio(back, there, server_hostname=name)
    server = context(called, ssl.PROTOCOL_TLS_SERVER).wrap_bio(there, back, server_side=True)
    open_ends = [client, server]
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not open_ends


def test_members_of_one_token_know_one_another_by_name_and_address(tmp_path: Path) -> None:
    write_identity(b"one token", ["ray-head", "10.0.0.2"], tmp_path / "head")
    write_identity(b"one token", ["10.0.0.3"], tmp_path / "worker")

    meet(tmp_path / "worker", tmp_path / "head", "ray-head")
    meet(tmp_path / "worker", tmp_path / "head", "10.0.0.2")
    meet(tmp_path / "head", tmp_path / "worker", "10.0.0.3")
    with pytest.raises(ssl.SSLError, match="mismatch"):
        meet(tmp_path / "head", tmp_path / "worker", "10.0.0.2")


def test_another_token_is_another_cluster(tmp_path: Path) -> None:
    write_identity(b"one token", ["10.0.0.2"], tmp_path / "head")
    write_identity(b"another token", ["10.0.0.3"], tmp_path / "stranger")

    with pytest.raises(ssl.SSLError):
        meet(tmp_path / "stranger", tmp_path / "head", "10.0.0.2")
    with pytest.raises(ssl.SSLError):
        meet(tmp_path / "head", tmp_path / "stranger", "10.0.0.3")


def test_files_are_the_owners_alone_and_written_anew(tmp_path: Path) -> None:
    for _ in range(2):
        write_identity(b"token", own_names(), tmp_path / "tls")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}
