"""The OpenSSF signature covers every byte, is tied to key, role and digest, and stock tools accept it."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.contracts.errors import Tampered
from penstock.packages.keys import Keys, Trust
from penstock.packages.manifest import write_manifest
from penstock.packages.signing import sign_package, verify_package
from penstock.testing.packages import write_package


@dataclass
class Signed:
    directory: Path
    signature: Path
    keys: Keys
    digest: str

    @property
    def trust(self) -> Trust:
        return self.keys.trust()

    def verify(self) -> None:
        verify_package(
            self.directory, self.signature, self.trust, self.digest, self.keys.signer("registry").keyid
        )


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    digest = write_package(tmp_path / "package")
    sign_package(tmp_path / "package", tmp_path / "model.sig", keys.signer("registry"))
    return Signed(tmp_path / "package", tmp_path / "model.sig", keys, digest)


def test_what_was_signed_verifies_wherever_it_lies(signed: Signed, tmp_path: Path) -> None:
    signed.verify()
    shutil.move(signed.directory, tmp_path / "moved")
    signed.directory = tmp_path / "moved"
    signed.verify()


def test_a_package_rebuilt_around_another_graph_is_refused(signed: Signed) -> None:
    (signed.directory / "model.onnx").write_bytes(b"evil")
    signed.digest = write_manifest(signed.directory)
    with pytest.raises(Tampered, match="signature does not hold"):
        signed.verify()


@pytest.mark.parametrize("name", [".git", ".gitignore", ".gitattributes"])
def test_nothing_is_ignored(signed: Signed, name: str) -> None:
    from model_signing import verifying

    from penstock.packages.signing import _everything

    (signed.directory / name).write_bytes(b"x")
    public = signed.directory.parent / "registry.pub"
    public.write_text(signed.trust.keys[signed.keys.signer("registry").keyid].public_key)
    config = verifying.Config().set_hashing_config(_everything()).use_elliptic_key_verifier(public_key=public)
    with pytest.raises(ValueError, match="Extra files"):
        config.verify(signed.directory, signed.signature)
    with pytest.raises(Tampered):
        signed.verify()


def test_a_signature_of_the_audit_key_is_refused(signed: Signed) -> None:
    audit = signed.keys.signer("audit")
    sign_package(signed.directory, signed.signature, audit)
    with pytest.raises(Tampered, match="does not hold"):
        signed.verify()
    with pytest.raises(Tampered, match="may sign as audit"):
        verify_package(signed.directory, signed.signature, signed.trust, signed.digest, audit.keyid)


def test_a_signature_of_a_stranger_is_refused(signed: Signed, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "stranger")
    stranger.ensure()
    sign_package(signed.directory, signed.signature, stranger.signer("registry"))
    with pytest.raises(Tampered, match="does not hold"):
        signed.verify()
    with pytest.raises(Tampered, match="not in the trust store"):
        verify_package(
            signed.directory, signed.signature, signed.trust, signed.digest, stranger.signer("registry").keyid
        )


def test_after_a_rotation_it_still_verifies_and_after_a_revocation_not(signed: Signed) -> None:
    old = signed.keys.signer("registry").keyid
    signed.keys.rotate("registry")
    verify_package(signed.directory, signed.signature, signed.trust, signed.digest, old)
    second = signed.keys.signer("registry")
    sign_package(signed.directory, signed.signature, second)
    signed.keys.rotate("registry", revoke=True)
    with pytest.raises(Tampered, match="not in the trust store"):
        verify_package(signed.directory, signed.signature, signed.trust, signed.digest, second.keyid)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"mediaType": 1}', b'{"dsseEnvelope": {"payload": "e30="}}']
)
def test_any_malformed_bundle_is_refused(signed: Signed, content: bytes) -> None:
    signed.signature.write_bytes(content)
    with pytest.raises(Tampered):
        signed.verify()


def test_a_changed_statement_or_no_signature_is_refused(signed: Signed) -> None:
    bundle = json.loads(signed.signature.read_text())
    payload = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    for change in (
        lambda: payload["predicate"]["resources"].pop(),
        lambda: payload["predicate"]["serialization"].update(ignore_paths=["evil"]),
        lambda: bundle["dsseEnvelope"].update(signatures=[]),
    ):
        change()
        bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(payload).encode()).decode()
        signed.signature.write_text(json.dumps(bundle))
        with pytest.raises(Tampered):
            signed.verify()


@pytest.mark.slow
def test_the_openssf_command_line_verifies_it(signed: Signed, tmp_path: Path) -> None:
    public = tmp_path / "registry.pub"
    public.write_text(signed.trust.keys[signed.keys.signer("registry").keyid].public_key)
    command = [
        "-m",
        "model_signing",
        "verify",
        "key",
        str(signed.directory),
        "--signature",
        str(signed.signature),
        "--public_key",
        str(public),
    ]
    assert (
        subprocess.run([sys.executable, *command], check=False, capture_output=True, timeout=60).returncode
        == 0
    )
