"""Joining: a machine becomes a site, once, with the token that `penstock sites enroll` printed."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, PenstockError, Tampered, Unavailable
from penstock.contracts.site_door import JOIN_NAME
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock_edge_gateway import certificates
from penstock_edge_gateway.private_file import write_private
from penstock_edge_gateway.site.identity import FILE, SiteIdentity
from penstock_edge_gateway.site.introduction import look, wrong_clock
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_edge_gateway.token import Token

WITHIN_S: Final = 30.0
_KEY_FILE: Final = "joining.key"  # until the site has its certificate


def join(folder: Path, text: str) -> SiteIdentity:
    """Makes a key, has the hub certify it, and keeps both in `folder`, with whose signatures count.
    Cut off anywhere, it goes on with the same key when it is called again.

    Blocks for a minute at most. Raises Invalid, Conflict where this machine is a site already, Denied,
    Tampered where another than the hub answers, Unavailable.
    """
    token = Token.read(text)
    if (folder / FILE).exists():
        present = SiteIdentity.load(folder)
        raise Conflict(f"this machine is {present.site} already", where=str(folder / FILE))
    authority = _proven_authority(token)
    key = _key(folder / _KEY_FILE)
    request = hub_pb2.JoinRequest(token=token.secret, certificate_request=certificates.request_of(key))
    joined = _ask(token.hub, authority, request)
    SiteTrust(folder).begin(joined.trust)
    identity = SiteIdentity(
        site=joined.site,
        hub=token.hub,
        authority=authority,
        certificate=joined.certificate,
        key=certificates.key_pem(key),
    )
    identity.save(folder)
    (folder / _KEY_FILE).unlink()
    return identity


def _proven_authority(token: Token) -> str:
    seen = look(token.hub).authority
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(seen)).hexdigest()
    except ValueError:
        found = ""
    if found != token.authority:
        raise Tampered(
            f"who answers there has authority {found[:16] or 'none'}, not {token.authority[:16]}",
            where=token.hub,
            remedy="Somebody may sit in between, or the token is of another hub: do not join there",
        )
    return seen


def _key(path: Path) -> certificates.Key:
    if not path.exists():
        write_private(path, certificates.key_pem(certificates.new_key()).encode())
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, certificates.Key)
    return key


def _ask(hub: str, authority: str, request: hub_pb2.JoinRequest) -> hub_pb2.JoinResponse:
    credentials = grpc.ssl_channel_credentials(authority.encode())
    options = [("grpc.ssl_target_name_override", JOIN_NAME)]
    with grpc.secure_channel(hub, credentials, options=options) as channel:
        try:
            return hub_pb2_grpc.HubServiceStub(channel).Join(request, timeout=WITHIN_S)
        except grpc.RpcError as error:
            raise _explained(error, hub, authority) from error


def _explained(error: grpc.RpcError, hub: str, authority: str) -> PenstockError:
    told = error_of_call(error)
    if isinstance(told, Unavailable) and (clocks := wrong_clock(hub, authority, datetime.now(UTC))):
        return Unavailable(
            f"no connection to the hub: {clocks}", where=hub, remedy="Set the clock, then join"
        )
    return told
