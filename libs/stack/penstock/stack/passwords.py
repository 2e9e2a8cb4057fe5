"""Passwords of the embedded broker's users: a file each, which only the stack's user reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from penstock.contracts.connection import SCRAM, KafkaSettings
from penstock.contracts.services import SERVICES

BROKER: Final = "broker"  # the broker itself, and who makes the other users
ADMIN: Final = "admin"  # may do everything, as tools that look inside


def ensure(kafka: Path) -> dict[str, str]:
    """Passwords by user of the broker whose files are in `kafka`; makes those that are missing."""
    found = {}
    for user in (BROKER, ADMIN, *SERVICES):
        path = file(kafka, user)
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(path, secrets.token_urlsafe(24))
        found[user] = path.read_text()
    return found


def file(kafka: Path, user: str) -> Path:
    return kafka / "passwords" / user


def settings(kafka: Path, address: str, user: str, prefix: str) -> KafkaSettings:
    """Settings by which a user reaches the broker."""
    return KafkaSettings(
        bootstrap_servers=address,
        topic_prefix=prefix,
        grants=True,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN" if user == BROKER else SCRAM,
        sasl_username=user,
        sasl_password_file=file(kafka, user),
    )


def write(path: Path, text: str) -> None:
    """Replaces a file by one that only this user reads."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)
