"""Which database a service has: said by settings, its password by a file that nothing shows."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from penstock.contracts.errors import Invalid, Unavailable
from penstock.runtime.database import Database, DatabaseAway
from penstock.runtime.settings import ServiceSettings, service_config

SECRET = "pass/word@with:everything"
BARE = "postgresql+psycopg://penstock@postgres:5432/trainer"


class Settings(ServiceSettings):
    model_config = service_config("trainer")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    return monkeypatch


def with_file(variables: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    variables.setenv("PENSTOCK_TRAINER__DATABASE", BARE)
    variables.setenv("PENSTOCK_TRAINER__DATABASE_PASSWORD_FILE", str(tmp_path / "secret"))


def test_without_a_setting_it_is_sqlite_in_the_services_folder(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert str(Settings().database_url) == f"sqlite:///{tmp_path}/trainer/trainer.db"


def test_a_writer_is_told_that_another_held_sqlite_for_too_long(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        database = Database(f"sqlite:///{tmp_path}/x.db")
        event.listen(database.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout=10"))
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(Unavailable, match=r"x\.db\): another writer has held it"),
            database.engine.begin(),
        ):
            pass
        database.close()


def test_a_writer_is_told_that_sqlites_disk_is_full(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE results (content BLOB)")
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        with pytest.raises(DatabaseAway, match=r"x\.db\): its disk is full\. Free some room"):
            connection.exec_driver_sql("INSERT INTO results VALUES (zeroblob(1000000))")
    database.close()


def test_the_password_comes_from_its_file_and_is_not_shown(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_file(variables, tmp_path, f"{SECRET}\n")
    settings = Settings()
    url = settings.database_url
    assert (url.password, url.host, url.database) == (SECRET, "postgres", "trainer")
    database = Database(url)
    shown = [settings, url, database, database.engine, database.presence.name, database.presence.error()]
    assert not [one for one in shown if SECRET in str(one) or SECRET in repr(one)]
    assert database.presence.name == "postgres:5432/trainer"


def test_a_password_in_the_url_is_refused_and_not_repeated(variables: pytest.MonkeyPatch) -> None:
    variables.setenv(
        "PENSTOCK_TRAINER__DATABASE", "postgresql+psycopg://penstock:tell-nobody@postgres/trainer"
    )
    with pytest.raises(Invalid, match="PENSTOCK_TRAINER__DATABASE: a password in a URL is seen") as caught:
        Settings()
    assert "tell-nobody" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres", "this is no database URL"),
        ("mysql://penstock@db/trainer", "no service can use mysql"),
        ("postgresql+asyncpg://penstock@db/trainer", r"no service can use postgresql\+asyncpg"),
    ],
)
def test_what_is_no_database_of_ours_is_refused(variables: pytest.MonkeyPatch, url: str, said: str) -> None:
    variables.setenv("PENSTOCK_TRAINER__DATABASE", url)
    with pytest.raises(Invalid, match=rf"PENSTOCK_TRAINER__DATABASE: {said}\. Write postgresql\+psycopg://"):
        Settings()


def test_a_password_file_that_says_nothing_is_named(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_file(variables, tmp_path, "\n")
    with pytest.raises(Invalid, match=r"/secret: the password file is empty"):
        Settings()
    (tmp_path / "secret").unlink()
    with pytest.raises(Invalid, match=r"/secret: the password cannot be read: .*No such file"):
        Settings()


def test_an_in_memory_database_is_refused() -> None:
    with pytest.raises(ValueError, match="give a file"):
        Database("sqlite://")


@pytest.mark.process
def test_who_uses_sqlite_does_not_load_the_driver(tmp_path: Path) -> None:
    code = f"""
import sys
from penstock.runtime.lifecycle import Service
from penstock.runtime.store import Store
Store.open("sqlite:///{tmp_path}/x.db").close()
sys.exit("psycopg" in sys.modules)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], env=dict(os.environ), timeout=60, check=False).returncode
        == 0
    )
