"""Token by which a site joins, once: where the hub is, by what its authority is known, the secret.

Text of one line, to be carried to the site by a person. The hub keeps the secret's digest only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Self

from penstock.contracts.errors import Invalid

_PREFIX: Final = "penstock-site-"
_SECRET_BYTES: Final = 24
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Token:
    hub: str  # host:port of the door for sites
    site: str
    authority: str  # sha256 of the authority's certificate, in hexadecimal digits
    secret: str
    expires_at: int  # seconds since 1970; by the hub's clock, which alone judges

    @classmethod
    def new(cls, *, hub: str, site: str, authority: str, expires_at: datetime) -> Self:
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        return cls(hub, site, authority, secret, int(expires_at.timestamp()))

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads what `str` wrote. Raises Invalid."""
        wrong = Invalid(
            "this is no token of a site",
            where="token",
            remedy="Copy the whole line that `penstock sites enroll` printed",
        )
        body = text.strip().removeprefix(_PREFIX)
        try:
            fields = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True))
            token = cls(**fields)
        except (ValueError, TypeError) as error:
            raise wrong from error
        texts = (token.hub, token.site, token.secret)
        if not (
            all(isinstance(one, str) and one for one in texts)
            and _HEX.fullmatch(str(token.authority))
            and isinstance(token.expires_at, int)
        ):
            raise wrong
        return token

    def __str__(self) -> str:
        body = base64.urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode())
        return _PREFIX + body.decode().rstrip("=")

    @property
    def expires(self) -> datetime:
        return datetime.fromtimestamp(self.expires_at, UTC)


def secret_digest(secret: str) -> str:
    """The sha256 under which the hub knows a secret: 24 random bytes need no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()
