"""Addresses of the platform: arguments win over the environment, that over `$PENSTOCK_HOME/stack.json`,
that over the default ports. The home is by default the `.penstock` of the folder one stands in, or of
the nearest one above it in which `penstock up` has started a stack.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from penstock.contracts.connection import SCRAM, KafkaSettings

DEFAULT_HOME = Path(".penstock")
STACK_FILE = "stack.json"


def _home() -> Path:
    """Home of the stack that was started here or in a folder above. One that belongs to somebody else is
    passed over: who may write into a folder above must not say where data are sent.
    """
    with suppress(OSError):  # this folder is gone, or its home is somebody else's
        if (DEFAULT_HOME / STACK_FILE).exists():
            return DEFAULT_HOME
        for folder in Path.cwd().parents:
            if _is_own(folder / DEFAULT_HOME):
                return folder / DEFAULT_HOME
    return DEFAULT_HOME


def _is_own(home: Path) -> bool:
    """Tells whether this user started a stack there. A link counts as its owner's, wherever it leads."""
    with suppress(OSError):
        return {one.lstat().st_uid for one in (home, home / STACK_FILE)} == {os.geteuid()}
    return False


class ClientSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = Field(default_factory=_home)
    endpoint: str = "127.0.0.1:9080"
    """host:port of the front door."""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)

    @property
    def assumed(self) -> bool:
        """Tells whether nobody said where the platform is: the default ports are called, whoever is there."""
        return "endpoint" not in self.model_fields_set

    @property
    def operator(self) -> KafkaSettings:
        """Settings to reach Kafka as who may write every topic: the embedded stack's `admin`, by a
        password that only its user reads. With another Kafka, `kafka` says who comes.
        """
        found = _stack(self.home)
        if self.kafka.bootstrap_servers != found.get("kafka") or "kafka_services" not in found:
            return self.kafka
        return self.kafka.model_copy(
            update={
                "bootstrap_servers": found["kafka_services"],
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": SCRAM,
                "sasl_username": "admin",
                "sasl_password_file": Path(found["home"]) / "kafka" / "passwords" / "admin",
            }
        )

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
        addresses = _addresses(Path(given["home"]) if "home" in given else _home())
        return init_settings, env_settings, InitSettingsSource(settings_cls, addresses)


def _addresses(home: Path) -> dict[str, Any]:
    found = _stack(home)
    if "endpoint" not in found or "kafka" not in found:
        return {}
    return {"endpoint": found["endpoint"], "kafka": {"bootstrap_servers": found["kafka"]}}


def _stack(home: Path) -> dict[str, Any]:
    """Addresses that the embedded stack wrote down when it came up; none where there is no stack."""
    try:
        found = json.loads((home / STACK_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
