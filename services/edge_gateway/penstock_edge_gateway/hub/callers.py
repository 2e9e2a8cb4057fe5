"""Caller of the hub: the site whose certificate Envoy saw. A call that did not come through the door for
sites, by the secret that only the door and the hub have, is nobody's.
"""

from __future__ import annotations

import hmac
import re
from typing import Any, Final

import grpc

from penstock.contracts.errors import Denied
from penstock.contracts.site_door import CERTIFICATE_HEADER, DOOR_HEADER
from penstock.runtime.store import Store
from penstock_edge_gateway.hub import sites

_DIGEST: Final = re.compile(r"(?:^|;)Hash=([0-9a-f]{64})(?:;|$)")

Context = grpc.aio.ServicerContext[Any, Any]


class Callers:
    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._secret = secret

    async def site_of(self, context: Context) -> str:
        """Name of the enrolled site that calls. Raises Denied."""
        digest = certified(self.admitted(context))
        return await self._store.read(lambda session: sites.holder(session, digest).name)

    def admitted(self, context: Context) -> dict[str, str]:
        """Headers of a call that came through the door for sites. Raises Denied for any other."""
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        if not hmac.compare_digest(headers.get(DOOR_HEADER, "").encode(), self._secret.encode()):
            raise Denied("this call did not come through the door for sites")
        return headers


def certified(headers: dict[str, str]) -> str:
    """The sha256 of the caller's certificate. Raises Denied where it showed none."""
    found = _DIGEST.search(headers.get(CERTIFICATE_HEADER, ""))
    if found is None:
        raise Denied("this call brings no certificate", remedy="Join with a token first")
    return found[1]
