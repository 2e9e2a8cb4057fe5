"""A first look at the hub's door: its authority, and its clock.

Python's own TLS, for what gRPC cannot do: to look at a door whose authority is not known yet, or
whose certificate this machine's clock does not let hold.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from penstock.contracts.errors import Unavailable
from penstock.contracts.site_door import AUTHORITY_PATH, JOIN_NAME

WITHIN_S: Final = 10.0
FAR: Final = timedelta(minutes=5)  # by which a clock is worth a word
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for
_LONGEST: Final = 64 << 10  # bytes of an answer


@dataclass(frozen=True)
class Seen:
    authority: str  # certificate, PEM; as it was told
    clock: datetime  # the hub's


def look(hub: str, authority: str | None = None) -> Seen:
    """Asks the door at `hub` for its authority and its time. Blocks for 10 s at most. Raises
    Unavailable.

    With `authority` the door must prove itself by it, whatever the time is; without, who answers is
    not known: compare the digest.
    """
    host, _, port = hub.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=WITHIN_S) as raw,
            _context(authority).wrap_socket(raw, server_hostname=JOIN_NAME) as tls,
        ):
            connection = http.client.HTTPConnection(JOIN_NAME)
            connection.sock = tls
            connection.request("GET", AUTHORITY_PATH)
            answer = connection.getresponse()
            told = answer.read(_LONGEST).decode()
            return Seen(told, parsedate_to_datetime(answer.headers["date"]).astimezone(UTC))
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        raise Unavailable(f"the hub's door for sites does not answer: {error}", where=hub) from error


def _context(authority: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority)
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def wrong_clock(hub: str, authority: str, now: datetime) -> str | None:
    """Sentence that names both clocks, where this machine's is far from the hub's; None where it is
    not, or the hub cannot be asked. Blocks for 10 s at most.
    """
    try:
        theirs = look(hub, authority).clock
    except Unavailable:
        return None
    return apart(theirs, now)


def apart(theirs: datetime, ours: datetime) -> str | None:
    """Sentence that names the hub's clock and this machine's, where they are far apart."""
    if abs(theirs - ours) < FAR:
        return None
    return f"this machine's clock says {_words(ours)}, the hub's {_words(theirs)}"


def _words(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
