"""OpenSSF signature of a package, verified in a process of its own: what that loads takes 35 MB and
half a second, which a site that serves has no use for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock.contracts.errors import PenstockError, Tampered, Unavailable
from penstock.packages.keys import Trust, TrustedKey
from penstock.packages.signing import verify_package

WITHIN_S: Final = 120.0
_REFUSED: Final = 3  # exit code; 1 is Python's for anything else


def verify_apart(directory: Path, signature: Path, trust: Trust, digest: str, keyid: str) -> None:
    """Verifies as `verify_package` does. Blocks. Raises Tampered, Unavailable where it comes
    to no end: it takes too long, or the machine has no memory for it.
    """
    key = trust.key(keyid, "registry")
    command = [sys.executable, "-m", __name__, str(directory), str(signature), digest, keyid]
    try:
        done = subprocess.run(
            command, input=key.model_dump_json(), capture_output=True, text=True, timeout=WITHIN_S
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the signature is not verified within {WITHIN_S:g} s") from error
    if done.returncode == _REFUSED:
        raise Tampered(done.stdout.strip().splitlines()[-1], where=signature.name)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"the signature's verification failed: {said[-1]}", where=signature.name)


def main(arguments: Sequence[str], key: str) -> int:
    directory, signature, digest, keyid = arguments
    trust = Trust({keyid: TrustedKey.model_validate_json(key)})
    try:
        verify_package(Path(directory), Path(signature), trust, digest, keyid)
    except PenstockError as error:
        print(error)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdin.read()))
