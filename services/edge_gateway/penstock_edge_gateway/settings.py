"""Settings of the hub: `PENSTOCK_EDGE_GATEWAY__…`."""

from __future__ import annotations

from pathlib import Path

from penstock.contracts.site_door import FILE, FOLDER
from penstock.runtime import ports
from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("edge_gateway")

    sites_address: str = f"127.0.0.1:{ports.SITES}"
    """Address at which sites reach the door, host:port: it stands in the tokens by which they join."""

    @property
    def site_door(self) -> Path:
        """File in which the front door finds what it needs to let sites in."""
        return self.platform.home.resolve() / FOLDER / FILE
