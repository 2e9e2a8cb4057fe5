"""OpenSSF model signature of a package: a sigstore bundle made with the registry's key over every
file of the directory.

Anyone can verify it without Penstock: `model_signing verify key --signature model.sig --public_key
registry.pub package/`. `model_signing` is imported at first use: with what it needs it takes most
of a second and 35 MB.
"""

from __future__ import annotations

import json
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

from penstock.contracts.errors import PenstockError, Tampered
from penstock.packages.format import open_package
from penstock.packages.keys import Signer, Trust


def sign_package(directory: Path, signature: Path, signer: Signer) -> None:
    """Writes the bundle to `signature`, which must lie outside `directory`."""
    from model_signing import signing

    with tempfile.TemporaryDirectory(prefix="penstock-sign-") as private:
        # model_signing reads the key by path; this is the key that was loaded, even if the file is
        # replaced meanwhile.
        key = Path(private, "key.pem")
        key.touch(0o600)
        key.write_bytes(signer.pem)
        config: Any = signing.Config()  # type: ignore[no-untyped-call]
        config.set_hashing_config(_everything()).use_elliptic_key_signer(private_key=key).sign(
            directory, signature
        )


def verify_package(directory: Path, signature: Path, trust: Trust, digest: str, keyid: str) -> None:
    """Opens the package, which must be `digest`, and verifies that the registry's key `keyid`
    signed all of it. Raises Tampered.

    The key must be in the trust store with the role registry; `keyid` only says which one it is.
    """
    from model_signing import verifying

    open_package(directory, digest)
    trusted = trust.key(keyid, "registry")
    try:
        _refuse_ignoring(signature)
        with tempfile.TemporaryDirectory(prefix="penstock-verify-") as scratch:
            public = Path(scratch, "key.pub")
            public.write_text(trusted.public_key)
            config: Any = verifying.Config()  # type: ignore[no-untyped-call]
            config.set_hashing_config(_everything()).use_elliptic_key_verifier(public_key=public).verify(
                directory, signature
            )
    except PenstockError:
        raise
    # A malformed bundle makes the library raise ValueError, KeyError, InvalidSignature and others.
    except Exception as error:
        raise Tampered(
            f"the package's signature does not hold: {error or type(error).__name__}", where=signature.name
        ) from error


def _everything() -> Any:
    """Hashes every file: the default would leave out .git, .gitignore and the like."""
    from model_signing import hashing

    config: Any = hashing.Config()  # type: ignore[no-untyped-call]
    return config.use_file_serialization(hashing_algorithm="sha256").set_ignored_paths(
        paths=(), ignore_git_paths=False
    )


def _refuse_ignoring(signature: Path) -> None:
    """Refuses a signature that leaves files out: a verifier takes the paths to ignore from it.
    Raises Tampered.
    """
    statement = json.loads(b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))
    serialization = statement["predicate"]["serialization"]
    if serialization.get("ignore_paths") or serialization.get("allow_symlinks"):
        raise Tampered("the signature leaves files out", where=signature.name)
