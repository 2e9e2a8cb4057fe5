"""Migrations without an env.py: a package of alembic revision files, applied from the code that owns it.

A new revision: `python -m penstock.runtime.migrate penstock_trainer.store:Tables
penstock_trainer.migrations "why"`.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, MetaData, create_engine, inspect

from penstock.contracts.errors import Conflict


def upgrade(engine: Engine, package: str, *, version_table: str = "alembic_version") -> None:
    """Applies what `package` holds and the database has not, in one transaction: all or nothing,
    also with replicas side by side.

    Raises Conflict where the database was written by a newer release.
    """
    script = _scripts(package)

    def revisions(current: Any, _context: MigrationContext) -> Iterable[Any]:
        return script._upgrade_revs("head", current)

    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table, "fn": revisions, "render_as_batch": True}
        )
        try:
            with Operations.context(context):
                context.run_migrations()
        except CommandError as error:
            raise Conflict(
                f"the database does not fit {package}: {error}",
                where=str(engine.url.database),
                remedy="Run the release that wrote it, or a newer one",
            ) from error


def assert_match(engine: Engine, metadata: Sequence[MetaData], *, versions: set[str]) -> None:
    """Raises AssertionError naming each table, column, index and constraint in which the database
    and `metadata` differ.
    """
    from alembic.autogenerate import compare_metadata

    known = {table for declared in metadata for table in declared.tables}
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_name": lambda name, kind, _: name not in versions},
        )
        differences = [difference for difference in compare_metadata(context, list(metadata)) if difference]  # type: ignore[arg-type]
        unknown = set(inspect(connection).get_table_names()) - known - versions
    assert not differences, "migrations and tables differ: " + "; ".join(map(str, differences))
    assert not unknown, f"the migrations make tables that nothing declares: {sorted(unknown)}"


def new_revision(tables: MetaData, package: str, why: str) -> Path:
    """Writes the revision that takes the package's tables to `tables`; to be read and kept by a person."""
    from alembic.autogenerate import produce_migrations, render_python_code

    script = _scripts(package)
    with tempfile.TemporaryDirectory() as scratch:
        engine = create_engine(f"sqlite:///{scratch}/now.db")
        if script.get_heads():
            upgrade(engine, package)
        with engine.connect() as connection:
            operations = produce_migrations(
                MigrationContext.configure(connection, opts={"compare_type": True}), tables
            )
        engine.dispose()
    assert operations.upgrade_ops is not None
    body = render_python_code(operations.upgrade_ops, render_as_batch=True)
    body = body.replace(
        "penstock.runtime.tables.UtcDateTime", "sa.DateTime"
    )  # a revision must not change when the code does
    heads = script.get_heads()
    number = f"{len(list(script.walk_revisions())) + 1:04d}"
    path = Path(script.versions) / f"{number}_{re.sub(r'[^a-z0-9]+', '_', why.lower()).strip('_')}.py"
    path.write_text(
        f'"""{why}"""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision ='
        f" {number!r}\ndown_revision = {heads[0] if heads else None!r}\nbranch_labels = None\ndepends_on ="
        f" None\n\n\ndef upgrade() -> None:\n    {body}\n"
    )
    return path


def _scripts(package: str) -> ScriptDirectory:
    module = importlib.import_module(package)
    directory = str(Path(next(iter(module.__path__))))
    return ScriptDirectory(directory, version_locations=[directory])


if __name__ == "__main__":
    where, package, why = sys.argv[1:]
    module, name = where.split(":")
    found = getattr(importlib.import_module(module), name)
    print(new_revision(found if isinstance(found, MetaData) else found.metadata, package, why))
