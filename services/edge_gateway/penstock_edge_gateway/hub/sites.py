"""Table of sites: invited by a token, enrolled with a certificate, or revoked.

A name is taken once. With `replace` it goes to another machine: what the present one proves itself
by counts no more from that moment on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from sqlalchemy import select
from sqlalchemy.orm import Session

from penstock.contracts.errors import Conflict, Denied, Invalid, NotFound, Refused
from penstock.runtime.store import Effect
from penstock_edge_gateway import certificates
from penstock_edge_gateway.certificates import checked_site, requested_key
from penstock_edge_gateway.hub import erasures
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.reports import report
from penstock_edge_gateway.hub.store import ENROLLED, INVITED, REVOKED, SiteRow
from penstock_edge_gateway.token import Token, secret_digest

VALID_S: Final = 24 * 3600
LONGEST_S: Final = 30 * 24 * 3600
SILENT: Final = timedelta(minutes=15)  # a site calls every few minutes


class Sites:
    def __init__(self, authority: Authority, address: str, clock: Callable[[], datetime]) -> None:
        """`address`: host:port at which sites reach the door."""
        self._authority = authority
        self._address = address
        self.clock = clock

    def enroll(self, name: str, effect: Effect, *, replace: bool, valid_s: int = VALID_S) -> Token:
        """Makes a token by which one machine may become the site. Raises Invalid, Conflict for a name
        that is taken.
        """
        if not 0 < valid_s <= LONGEST_S:
            raise Invalid("a token holds for up to 30 days", where="valid_seconds")
        now, valid = self.clock(), timedelta(seconds=valid_s)
        row = effect.session.get(SiteRow, checked_site(name))
        if row and not replace and not row.lapsed(now):
            raise Conflict(
                f"the name is taken: {row.state} since {row.since:%Y-%m-%d %H:%M} UTC",
                where=name,
                remedy="Take another name; --replace gives this one to another machine",
            )
        token = Token.new(
            hub=self._address, site=name, authority=self._authority.digest, expires_at=now + valid
        )
        row = row or SiteRow(name=name, incarnation=0, erased=erasures.newest(effect.session))
        row.state, row.since = INVITED, now
        row.certificate = row.key = None
        row.token, row.token_expires_at = secret_digest(token.secret), now + valid
        effect.session.add(row)
        effect.publish(report(row, now))
        return token

    def join(self, secret: str, request: bytes, effect: Effect) -> SiteRow:
        """Certifies the key of the machine that brings a token's secret. The same machine may ask again
        with it, should the answer have been lost. Raises Denied, Invalid.
        """
        now, key = self.clock(), requested_key(request)
        row = effect.session.scalar(select(SiteRow).where(SiteRow.token == secret_digest(secret)))
        if row is None or row.token_expires_at is None:
            raise Denied("this token is unknown, or another has replaced it", remedy="Enroll the site again")
        if now >= row.token_expires_at:
            raise Denied(
                f"this token expired at {row.token_expires_at:%Y-%m-%d %H:%M:%S} UTC, now it is"
                f" {now:%H:%M:%S}",
                where=row.name,
                remedy="Enroll the site again",
            )
        if row.state == INVITED:
            certificate = self._authority.certify(row.name, request, now)
            row.state, row.since = ENROLLED, now
            row.certificate, row.key = certificates.pem(certificate), certificates.digest(certificate)
            effect.publish(report(row, now))
        elif row.state == REVOKED or row.certificate is None or _key_of(row.certificate) != key:
            raise Denied("this token was used", where=row.name, remedy="Enroll the site again")
        return row

    def revoke(self, name: str, effect: Effect) -> SiteRow:
        """Shuts a site out from this moment on; its name stays taken. Raises NotFound."""
        row = known(effect.session, name)
        if row.state != REVOKED:
            row.state, row.since = REVOKED, self.clock()
            row.token = row.token_expires_at = None
            effect.publish(report(row, row.since))
            # It is asked for no erasure any more, and none is kept for it alone: each names a person.
            erasures.confirm(effect, name, erasures.newest(effect.session))
        return row

    def begin(
        self, name: str, clock: datetime | None, effect: Effect, *, after: int = 0, superseded: int = 0
    ) -> int:
        """Number of this start of the site, which rises: of two machines with one key, the one that
        started last counts. `clock` is the site's; `after`: a start that is known from elsewhere.
        `superseded`: the caller's own, which another followed; raises Refused while that one calls.
        """
        row, now = known(effect.session, name), self.clock()
        if 0 < superseded < row.incarnation and row.last_contact and now - row.last_contact < SILENT:
            raise Refused(
                f"start {superseded} of this site was followed by start {row.incarnation}, which called"
                f" {(now - row.last_contact).total_seconds():.0f} s ago",
                remedy="One site has one disk: enroll a copy under a name of its own",
            )
        row.incarnation = max(row.incarnation, after) + 1
        row.last_contact = now
        row.clock_ahead_s = (clock - now).total_seconds() if clock else None
        effect.publish(report(row, now))
        return row.incarnation


def known(session: Session, name: str) -> SiteRow:
    """Raises NotFound."""
    row = session.get(SiteRow, name)
    if row is None:
        raise NotFound(f"there is no site {name!r}", remedy="`penstock sites list` names them all")
    return row


def holder(session: Session, digest: str) -> SiteRow:
    """Site whose certificate has this digest. Raises Denied."""
    row = session.scalar(select(SiteRow).where(SiteRow.key == digest))
    if row is None:
        raise Denied(
            f"certificate {digest[:16]} is no site's here, or another machine has its name now",
            remedy="Enroll the site again with --replace",
        )
    if row.state == REVOKED:
        raise Denied(f"this site was revoked at {row.since:%Y-%m-%d %H:%M:%S} UTC", where=row.name)
    return row


def _key_of(certificate: str) -> object:
    return x509.load_pem_x509_certificate(certificate.encode()).public_key()
