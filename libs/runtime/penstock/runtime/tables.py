"""The runtime's own tables, in every service's database beside the service's: inbox, outbox, jobs, leases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.errors import PenstockError
from penstock.contracts.events import Cost


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on every database; SQLite alone would give it back naive. Raises
    ValueError for a naive one.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A value of a type that pydantic knows, kept as JSON: `mapped_column(Json(tuple[Artifact, ...]))`.

    None is SQL's NULL; JSON's null, as older releases wrote it, is read as None too. Reading passes
    over keys of a newer release, and raises PenstockError for a value that is none of the type.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__(none_as_null=True)
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        return self._adapter.dump_python(value, mode="json", by_alias=True, warnings="error")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        try:
            return None if value is None else self._adapter.validate_python(value, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise PenstockError(f"a row of the database is damaged: {first['msg']}", where=where) from None


class RuntimeTables(DeclarativeBase):
    """Base of the tables below; its names begin with `penstock_`, so that a service's cannot meet them."""


# SQLite numbers rows by itself only for INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")


class InboxRow(RuntimeTables):
    """An event that a group has applied."""

    __tablename__ = "penstock_inbox"

    group_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(256), primary_key=True)
    applied_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class OutboxRow(RuntimeTables):
    """An event that is decided and not yet acknowledged by Kafka. Ids rise, also over a deleted row."""

    __tablename__ = "penstock_outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    # The catalogue's name; the installation's prefix comes when it is published.
    topic: Mapped[str] = mapped_column(String(256))
    key: Mapped[str] = mapped_column(String(512))
    event_id: Mapped[str] = mapped_column(String(64), unique=True)
    event_type: Mapped[str] = mapped_column(String(256))
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime)
    traceparent: Mapped[str | None] = mapped_column(String(64))
    value: Mapped[bytes] = mapped_column(LargeBinary)


class JobRow(RuntimeTables):
    """A job from wish to end. `state` is queued, running, done, failed or canceled; `attempt` counts
    its starts, `crashes` those whose process died by itself, `refusals` those that ended in an error
    of a kind that may pass; `cost` is that of all its starts.
    """

    __tablename__ = "penstock_jobs"
    __table_args__ = (
        UniqueConstraint("kind", "job_id", name="penstock_jobs_once"),
        Index("penstock_jobs_next", "kind", "state", "not_before"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(256))
    payload: Mapped[Any] = mapped_column(Json(Any))
    traceparent: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer)
    crashes: Mapped[int] = mapped_column(Integer)
    refusals: Mapped[int] = mapped_column(Integer)
    owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    failure_kind: Mapped[str | None] = mapped_column(String(32))
    failure: Mapped[str | None] = mapped_column(Text)
    cost: Mapped[Cost | None] = mapped_column(Json(Cost))


class LeaseRow(RuntimeTables):
    """A lease: the one of several replicas that does what only one may do."""

    __tablename__ = "penstock_leases"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    until: Mapped[datetime] = mapped_column(UtcDateTime)
