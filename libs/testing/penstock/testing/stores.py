"""Databases as a service's migrations leave them, copied: migrating takes longer than what a test asks."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from penstock.runtime.store import Store


def new_store(url: str, migrations: str, **options: Any) -> Store:
    """Opens a new database, with `options` of `Store.open`."""
    return Store.open(migrated(url, migrations), migrations=migrations, **options)


def migrated(url: str, package: str) -> str:
    """The URL of a new database, which is now as `Store.open` leaves it with these migrations. Of SQLite
    alone: one of PostgreSQL stays empty, and is migrated when it is opened.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database
        with Path(parsed.database).open("xb") as file:
            file.write(_empty(package))
    return url


@cache
def _empty(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "empty.db")
        Store.open(f"sqlite:///{file}", migrations=package).close()
        return file.read_bytes()
