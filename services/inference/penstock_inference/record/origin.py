"""Which events are behind a prediction that was asked by entity: told in the request itself,
sealed, so that it lands in the one record.

`Predict` asks the door like any client. The request carries the events' ids as the parameter
`penstock_events`, with a code that only this service can make: a client that sends the parameter of
its own accord is not believed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import orjson

PARAMETER = "penstock_events"


class Origins:
    """The key lies beside the service's data, mode 0600; replicas of one door share it. Made when missing."""

    def __init__(self, folder: Path) -> None:
        path = folder / "origins.key"
        if not path.exists():
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as made:
                made.write(secrets.token_bytes(32))
            beside.replace(path)
        self._key = path.read_bytes()

    def seal(self, events: Mapping[str, str]) -> str:
        """Event ids by source, as the parameter's text."""
        said = orjson.dumps(dict(events))
        return f"{self._code(said)}.{said.decode()}"

    def opened(self, text: str | None) -> dict[str, str] | None:
        """What was sealed; None for anything else."""
        code, _, said = (text or "").partition(".")
        if not said or not hmac.compare_digest(code, self._code(said.encode())):
            return None
        found: dict[str, str] = orjson.loads(said)
        return found

    def _code(self, said: bytes) -> str:
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()
