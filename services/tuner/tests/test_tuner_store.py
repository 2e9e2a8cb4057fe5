"""The tuner's tables, as they are declared and as its revisions make them."""

from __future__ import annotations

from pathlib import Path

from penstock.runtime.store import Store, assert_migrations_match
from penstock_tuner.store import Tables


def test_the_migrations_make_the_declared_tables(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/tuner.db", migrations="penstock_tuner.migrations")
    try:
        assert_migrations_match(store, Tables.metadata)
    finally:
        store.close()
