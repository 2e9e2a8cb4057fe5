"""Tables of the hub, and the queries over them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, LargeBinary, String, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.runtime.tables import UtcDateTime

INVITED: Final = "invited"
ENROLLED: Final = "enrolled"
REVOKED: Final = "revoked"


class Tables(DeclarativeBase):
    pass


class SiteRow(Tables):
    __tablename__ = "sites"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    # PEM, and its sha256 in hexadecimal digits; none before the site has joined.
    certificate: Mapped[str | None] = mapped_column(Text, default=None)
    key: Mapped[str | None] = mapped_column(String(64), unique=True, default=None)
    # The sha256 of the secret in its newest token.
    token: Mapped[str | None] = mapped_column(String(64), unique=True, default=None)
    token_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    incarnation: Mapped[int] = mapped_column(BigInteger, default=0)
    last_contact: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    # Of the site's clock against the hub's, when it was told last.
    clock_ahead_s: Mapped[float | None] = mapped_column(default=None)
    # `SiteStatus`, as the site told it last.
    status: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)

    # Serial up to which it has carried out erasures.
    erased: Mapped[int] = mapped_column(BigInteger, default=0)

    def lapsed(self, now: datetime) -> bool:
        """Tells whether its token expired before anybody used it."""
        return self.state == INVITED and (self.token_expires_at is None or now >= self.token_expires_at)


class ErasureRow(Tables):
    """Kept until every site has carried it out: it names a person."""

    __tablename__ = "erasures"

    serial: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    pipeline: Mapped[str] = mapped_column(String(63))
    entity: Mapped[str] = mapped_column(Text)


def sites(session: Session, after: str = "", most: int | None = None) -> list[SiteRow]:
    """Lists those behind the name `after`, by name; all, or the first so many."""
    found = select(SiteRow).where(SiteRow.name > after).order_by(SiteRow.name).limit(most)
    return list(session.scalars(found))
