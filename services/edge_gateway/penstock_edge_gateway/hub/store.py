"""Tables of the hub, and the queries over them."""

from __future__ import annotations

from sqlalchemy import BigInteger, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import NotFound


class Tables(DeclarativeBase):
    pass


class SiteRow(Tables):
    """State: `invited`, `enrolled` or `revoked`."""

    __tablename__ = "sites"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    certificate: Mapped[str | None] = mapped_column(String(64), unique=True, default=None)
    """SHA-256 in hex; none before it has joined."""
    incarnation: Mapped[int] = mapped_column(BigInteger, default=0)


def sites(session: Session) -> list[SiteRow]:
    return list(session.scalars(select(SiteRow).order_by(SiteRow.name)))


def site(session: Session, name: str) -> SiteRow:
    """Raises NotFound."""
    row = session.get(SiteRow, name)
    if row is None:
        raise NotFound(f"no site `{name}`", remedy="See `penstock sites list`")
    return row
