"""Erasures at sites: which entity each has still to remove from its spool. What a site forwards of it
until then is dropped, so that it does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from penstock.runtime.store import Effect
from penstock_edge_gateway.hub import store as rows
from penstock_edge_gateway.hub.store import ENROLLED, REVOKED, ErasureRow, SiteRow


def ask(effect: Effect, pipeline: str, *entities: str) -> tuple[int, list[str]]:
    """Asks all sites to erase an entity, under each of its names. Returns the last erasure's serial, and
    the sites; where there are none, nothing is kept of it.
    """
    before = newest(effect.session)
    sites = [site.name for site in _concerned(effect.session)]
    if sites:
        effect.session.add_all(
            ErasureRow(serial=serial, pipeline=pipeline, entity=entity)
            for serial, entity in enumerate(entities, before + 1)
        )
    return before + len(entities), sites


def confirm(effect: Effect, site: str, serial: int) -> None:
    """Takes down up to which serial a site has erased, and forgets what all have."""
    row = effect.session.get_one(SiteRow, site)
    row.erased = max(row.erased, min(serial, newest(effect.session)))
    effect.session.flush()
    done = min((one.erased for one in _concerned(effect.session)), default=newest(effect.session))
    effect.session.execute(delete(ErasureRow).where(ErasureRow.serial <= done))


def pending(session: Session, site: SiteRow) -> Sequence[ErasureRow]:
    """Lists what a site has still to erase, in order."""
    found = select(ErasureRow).where(ErasureRow.serial > site.erased).order_by(ErasureRow.serial)
    return session.scalars(found).all()


def newest(session: Session) -> int:
    """Highest serial that was ever given."""
    asked = session.scalar(select(func.max(ErasureRow.serial))) or 0
    return max(asked, session.scalar(select(func.max(SiteRow.erased))) or 0)


def _concerned(session: Session) -> list[SiteRow]:
    """Sites that may hold something: those that have joined, and those whose disk may join again."""
    return [
        site
        for site in rows.sites(session)
        if site.state != REVOKED and (site.state == ENROLLED or site.incarnation)
    ]
