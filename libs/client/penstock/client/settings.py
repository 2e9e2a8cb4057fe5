"""Addresses of the platform: arguments win over the environment, that over `$PENSTOCK_HOME/stack.json`,
that over the default ports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from penstock.contracts.connection import KafkaSettings

DEFAULT_HOME = Path(".penstock")


class ClientSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = DEFAULT_HOME
    endpoint: str = "127.0.0.1:9080"
    """host:port of the front door."""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = {**env_settings(), **init_settings()}
        addresses = _addresses(Path(given.get("home", DEFAULT_HOME)))
        return init_settings, env_settings, InitSettingsSource(settings_cls, addresses)


def _addresses(home: Path) -> dict[str, Any]:
    """Addresses that the embedded stack wrote down when it came up; none where there is no stack."""
    try:
        found = json.loads((home / "stack.json").read_text())
        return {"endpoint": found["endpoint"], "kafka": {"bootstrap_servers": found["kafka"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
