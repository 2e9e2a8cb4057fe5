"""Events behind a prediction by entity: sealed in the request itself, so that they are in its
record.

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


class Origins:
    """Seals and opens event ids. The key lies beside the service's data, mode 0600, and is made
    when missing; replicas of one door share it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "origins.key"
        if not path.exists():
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as made:
                made.write(secrets.token_bytes(32))
            beside.replace(path)
        self._key = path.read_bytes()

    def seal(self, events: Mapping[str, str]) -> str:
        """Seals event ids by source, as the parameter's text."""
        said = orjson.dumps(dict(events))
        return f"{self._code(said)}.{said.decode()}"

    def opened(self, text: str | None) -> dict[str, str] | None:
        """Opens what `seal` made; None for any other text."""
        code, _, said = (text or "").partition(".")
        if not said or not hmac.compare_digest(code, self._code(said.encode())):
            return None
        found: dict[str, str] = orjson.loads(said)
        return found

    def _code(self, said: bytes) -> str:
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()
