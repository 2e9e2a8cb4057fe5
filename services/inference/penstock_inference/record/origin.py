"""Origin of a prediction: the events behind one by entity, what was warned of, the site that was asked.
It is sealed in the request itself, so that it is in the record.

Whoever asks for others asks the door like any client. The request carries the origin as the parameter
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
from typing import Any, Literal, cast

import orjson

from penstock.contracts.dataplane import Degraded, Prediction
from penstock.serving.confidence import Edges
from penstock.serving.records import fill_confidence


@dataclass(frozen=True)
class OfSite:
    """Site that was asked and could not answer, and by what its record is judged."""

    site: str
    degraded: str
    edges: Edges | None
    label_below: float | None
    protocol: Literal["grpc", "http"] | None = None
    """By which the site was asked; None: it does not say."""

    def fill(self, prediction: Prediction) -> None:
        """Writes it into the record of an answer, once that holds what was answered."""
        prediction["site"], prediction["served_by"] = self.site, "cloud"
        prediction["degraded"] = cast(Degraded, self.degraded)
        prediction["protocol"] = self.protocol or prediction["protocol"]
        fill_confidence(prediction, self.edges, self.label_below)


@dataclass(frozen=True)
class Origin:
    """Ids of the events behind a prediction, by source, sentences on its inputs, and its site."""

    events: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    site: OfSite | None = None


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
        said = orjson.dumps([origin.events, origin.warnings, *([origin.site] if origin.site else [])])
        return f"{self._code(said)}.{said.decode()}"

    def opened(self, text: str | None) -> Origin | None:
        """Opens what `seal` made; None for any other text."""
        code, _, said = (text or "").partition(".")
        if not said or not hmac.compare_digest(code, self._code(said.encode())):
            return None
        found = orjson.loads(said)
        if isinstance(found, dict):  # a log that an upgrade outlived has the events alone
            return Origin(found)
        events, warnings, *site = found
        return Origin(events, warnings, _site(site[0]) if site else None)

    def _code(self, said: bytes) -> str:
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()


def _site(said: dict[str, Any]) -> OfSite:
    edges = said["edges"]
    if edges:
        interval = edges["abstains"]
        edges = Edges(edges["threshold"], tuple(interval) if interval else None)
    return OfSite(said["site"], said["degraded"], edges, said["label_below"], said.get("protocol"))
