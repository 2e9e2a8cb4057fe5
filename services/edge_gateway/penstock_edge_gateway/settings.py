"""Settings of the hub: `PENSTOCK_EDGE_GATEWAY__…`."""

from __future__ import annotations

from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("edge_gateway")
