"""Events behind a prediction by entity, and what was warned of: sealed in the request itself, so that
they are in its record.

`Predict` asks the door like any client. The request carries both as the parameter
`penstock_events`, with a code that only this service can make: a client that sends the parameter of
its own accord is not believed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import orjson


@dataclass(frozen=True)
class Origin:
    """Ids of the events behind a prediction, by source, and sentences on its inputs."""

    events: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Origins:
    """Seals and opens origins. The key lies beside the service's data, mode 0600, and is made
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

    def seal(self, origin: Origin) -> str:
        """Seals an origin as the parameter's text."""
        said = orjson.dumps([origin.events, origin.warnings])
        return f"{self._code(said)}.{said.decode()}"

    def opened(self, text: str | None) -> Origin | None:
        """Opens what `seal` made; None for any other text."""
        code, _, said = (text or "").partition(".")
        if not said or not hmac.compare_digest(code, self._code(said.encode())):
            return None
        found = orjson.loads(said)
        # A log that an upgrade outlived has the events alone.
        return Origin(found) if isinstance(found, dict) else Origin(*found)

    def _code(self, said: bytes) -> str:
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()
