"""Leases in the database: who of several replicas does what only one may do."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete

from penstock.runtime.effect import Effect
from penstock.runtime.tables import LeaseRow


def take_lease(effect: Effect, name: str, owner: str, now: datetime, length: timedelta) -> bool:
    """Takes or extends the lease until `now + length`; False while another owner's has not ended.

    An owner takes its own lease again at once: a replica's name is its own, so whoever held it
    under that name is dead.
    """
    row = effect.session.get(LeaseRow, name, with_for_update=True)
    if row is None:
        effect.session.add(LeaseRow(name=name, owner=owner, until=now + length))
        return True
    if row.owner != owner and row.until > now:
        return False
    row.owner, row.until = owner, now + length
    return True


def holder_of(effect: Effect, name: str) -> str | None:
    """Returns the holder that took the lease last, ended or not."""
    row = effect.session.get(LeaseRow, name)
    return None if row is None else row.owner


def drop_lease(effect: Effect, name: str, owner: str) -> None:
    """Ends the owner's own lease now; another's stays."""
    effect.session.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.owner == owner))
