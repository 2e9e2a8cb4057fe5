"""`PENSTOCK_MODEL_REGISTRY__…`."""

from __future__ import annotations

from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("model_registry")
