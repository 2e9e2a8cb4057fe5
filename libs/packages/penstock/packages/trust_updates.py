"""Updates of the trust store, for a site: it hears of rotations from afar, perhaps of several at once.

An update is the whole store of registry and audit as it counts from then on, signed by a registry key that
counted before it, with a serial that rises. Who knows an older store goes on from there; who has no
such key can tell it nothing. They stand in `updates.json` beside `trust.json`, oldest first.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Tampered
from penstock.contracts.events import Envelope
from penstock.packages import dsse
from penstock.packages.keys import NoKey, Role, Signer, Trust, TrustedKey
from penstock.packages.manifest import canonical

FILE: Final = "updates.json"
_UPDATES: Final = TypeAdapter(tuple[Envelope, ...])


class TrustUpdate(dsse.Statement):
    """Public keys that count; `digest` is of them."""

    payload_type: ClassVar = "application/vnd.penstock.trust-update.v1+json"
    role: ClassVar[Role] = "registry"

    serial: int
    keys: dict[str, TrustedKey]


@dataclass(frozen=True)
class Followed:
    """Trust store as far as it is known."""

    serial: int
    trust: Trust
    at: datetime | None
    """When the registry signed it; None: nobody kept that."""

    def after(self, updates: Iterable[Envelope]) -> Followed:
        """Goes through those that are newer, in their order. Raises Tampered for one that no key of
        the store before it signed; nothing of what was given counts then.
        """
        known = self
        for envelope in updates:
            update = _unverified(envelope)
            if update.serial > known.serial:
                update = dsse.verify(envelope, known.trust, TrustUpdate)
                known = Followed(update.serial, Trust(update.keys), update.at)
        return known


def first(updates: tuple[Envelope, ...]) -> Followed:
    """The newest store, for who has none to judge it by and trusts who tells. Raises NoKey while there is
    none.
    """
    if not updates:
        raise NoKey("the registry has not signed the trust store yet", remedy="Start the model registry")
    newest = _unverified(updates[-1])
    return Followed(newest.serial, Trust(newest.keys), newest.at)


def newest(updates: tuple[Envelope, ...]) -> tuple[int, datetime]:
    """Serial and time of the newest update; 0 and 1970 while there is none."""
    if not updates:
        return 0, datetime.fromtimestamp(0, UTC)
    update = _unverified(updates[-1])
    return update.serial, update.at


def read(folder: Path) -> tuple[Envelope, ...]:
    """Reads the updates beside a trust store. Raises Tampered for a damaged file."""
    path = folder / FILE
    try:
        return _UPDATES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise Tampered(
            f"no updates of a trust store: {error.errors()[0]['msg']}",
            where=str(path),
            remedy="Take it from a backup; without it, remove it, and enroll each site again",
        ) from error


def appended(
    updates: tuple[Envelope, ...], keys: Mapping[str, TrustedKey], signer: Signer
) -> tuple[Envelope, ...]:
    """The updates, with one more where the newest does not hold these keys."""
    content: JsonValue = {name: key.model_dump(mode="json") for name, key in keys.items()}
    digest = digest_of(canonical(content))
    newest = _unverified(updates[-1]) if updates else None
    if newest and newest.digest == digest:
        return updates
    update = TrustUpdate(
        pipeline="",
        digest=digest,
        at=datetime.now(UTC),
        serial=newest.serial + 1 if newest else 1,
        keys=dict(keys),
    )
    return (*updates, dsse.sign(update, signer))


def written(updates: tuple[Envelope, ...]) -> bytes:
    return _UPDATES.dump_json(updates, indent=1)


def _unverified(envelope: Envelope) -> TrustUpdate:
    try:
        return TrustUpdate.model_validate_json(b64decode(envelope.payload, validate=True))
    except ValueError as error:
        raise Tampered("this is no update of a trust store") from error
