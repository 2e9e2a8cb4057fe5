"""Handover of the edge hub to the front door, so that sites come in: `sites/door.json` in
`PENSTOCK_HOME`, which both of their services reach and nobody else.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

FOLDER: Final = "sites"
FILE: Final = "door.json"
SITES_NAME: Final = "sites.penstock.internal"
"""The door's name in TLS for enrolled sites, whatever its address is: the authority is the proof."""
JOIN_NAME: Final = "join.penstock.internal"
"""The door's name in TLS for a site that has no certificate yet."""
AUTHORITY_PATH: Final = "/authority"
"""Path, under the name for joining, of the authority's certificate (PEM)."""
HUB_SERVICE: Final = "penstock.edge_gateway.v1.HubService"
FALLBACK_SERVICE: Final = "penstock.inference.v1.FallbackService"
JOIN_METHOD: Final = f"/{HUB_SERVICE}/Join"
DOOR_HEADER: Final = "x-penstock-site-door"
"""Header that shows the hub that a call came through the door, and inference that one is the hub's: a
secret of the two services.
"""
CERTIFICATE_HEADER: Final = "x-forwarded-client-cert"
"""Header in which Envoy says which certificate the client proved to have."""


class SiteDoor(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    authority: str  # certificate that sites' certificates are signed with, PEM
    certificate: str  # the door's, PEM
    key: str  # of the door's certificate, PEM
    secret: str  # value of `DOOR_HEADER`
