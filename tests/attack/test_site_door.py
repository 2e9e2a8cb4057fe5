"""The door for sites lets in who is enrolled, to the hub and nowhere else: a real Envoy with inference's
documents before the hub's own servicer, table and authority.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, Denied, NotFound, Refused, Tampered, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.site_door import CERTIFICATE_HEADER, JOIN_NAME, SITES_NAME
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.inference.v1.fallback_pb2 import SiteAnswer, SiteQuestion
from penstock.packages.keys import Keys, Trust
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.stack import envoy
from penstock.testing import lending
from penstock.testing.broker import free_ports
from penstock.testing.wait import until
from penstock_edge_gateway import certificates
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.callers import Callers
from penstock_edge_gateway.hub.forward.forwarder import Forwarder
from penstock_edge_gateway.hub.forward.lanes import Position
from penstock_edge_gateway.hub.forward.lease import Lease
from penstock_edge_gateway.hub.hub_servicer import HubServicer
from penstock_edge_gateway.hub.news import News
from penstock_edge_gateway.hub.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.hub.questions import Questions
from penstock_edge_gateway.hub.reports import Reports
from penstock_edge_gateway.hub.shelf import Shelf
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import SiteRow, Tables
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import FILE, SiteIdentity
from penstock_edge_gateway.site.introduction import look, wrong_clock
from penstock_edge_gateway.site.join import join
from penstock_edge_gateway.token import Token
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare
from penstock_inference.door.sites import HUB, SiteListener

pytestmark = pytest.mark.process


@dataclass
class Running:
    folder: Path
    door: Door
    sites: SiteListener
    hub: str
    authority: Authority
    store: Store
    table: Sites
    ahead: timedelta = field(default_factory=timedelta)  # of the hub's clock

    def token(self, site: str, *, replace: bool = False) -> str:
        with self.store.transaction() as effect:
            return str(self.table.enroll(site, effect, replace=replace))

    def joined(self, site: str, *, replace: bool = False) -> SiteIdentity:
        return join(self.folder / site / str(replace), self.token(site, replace=replace))


def hello(identity: SiteIdentity, *metadata: tuple[str, str]) -> int:
    """Number of the site's start, as the hub counts. Raises what it is told."""
    request = hub_pb2.HelloRequest()
    return int(called(identity, lambda hub: hub.Hello(request, metadata=metadata, timeout=10)).incarnation)


def infer(identity: SiteIdentity, start: int, pipeline: str = "loans") -> str:
    """Asks the platform as a site does. Raises what it is told."""
    request = hub_pb2.InferRequest(incarnation=start, question=SiteQuestion(pipeline=pipeline))
    return str(called(identity, lambda hub: hub.Infer(request, timeout=10)).answer.prediction)


def called(identity: SiteIdentity, call: Callable[[Any], Any]) -> Any:
    async def ask() -> Any:
        async with identity.channel() as channel:
            return await call(hub_pb2_grpc.HubServiceStub(channel))

    try:
        return asyncio.run(ask())
    except grpc.RpcError as error:
        raise error_of_call(error) from None


def refused(
    address: str, method: str, *metadata: tuple[str, str], credentials: Any = None, name: str = ""
) -> str:
    """Why a call is refused that brings no certificate."""
    options = [("grpc.ssl_target_name_override", name)] if name else []
    channel = grpc.secure_channel(address, credentials, options) if name else grpc.insecure_channel(address)
    ask: Any = channel.unary_unary(method)
    with channel, pytest.raises(grpc.RpcError) as error:
        ask(b"", metadata=metadata, timeout=5)
    return f"{error.value.code().name}: {error.value.details()}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sites")
    listen, admin, sites, hub = (f"127.0.0.1:{port}" for port in free_ports(4))
    door = Door(folder / "envoy", listen, admin, Backends(*["127.0.0.1:1"] * 3), {"inference": hub, HUB: hub})
    prepare(door)
    authority = Authority.open(folder / "hub", datetime.now(UTC))
    listener = SiteListener(sites, door.folder, folder / "sites" / "door.json")
    authority.hand_over(listener.handed, datetime.now(UTC))
    store = Store.open("sqlite:///" + str(folder / "hub.db"), Tables.metadata)
    running = Running(folder, door, listener, hub, authority, store, table=None)  # type: ignore[arg-type]
    running.table = Sites(authority, sites, lambda: datetime.now(UTC) + running.ahead)
    keys = Keys(folder / "keys")
    keys.ensure()
    callers = Callers(store, authority.secret)
    news = News("penstock.edge_gateway", keys, PseudonymKeys(folder))
    servicer = HubServicer(
        store,
        running.table,
        callers,
        Reports(lambda: datetime.now(UTC)),
        news,
        Shelf(Artifacts(f"file://{folder}/artifacts"), folder / "packages", news.version),
        NothingForwarded(store),
        Answered(),
    )
    with ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(Serving(servicer, hub))
        process = subprocess.Popen(
            envoy.command(door.folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        listener.write()
        until(lambda: answers(sites), what="the door for sites listens")
        yield running


class NothingForwarded(Forwarder):
    """A hub's forwarder without Kafka, which the door is not about."""

    def __init__(self, store: Store) -> None:
        def unknown(name: str) -> Pipeline:
            raise NotFound(name)

        def now() -> datetime:
            return datetime.now(UTC)

        super().__init__(KafkaSettings(), unknown, Lease(store, "0", now), Readiness(now))

    def positions(self, site: str) -> dict[str, Position]:
        return {}


class Answered(Questions):
    """The way to the platform, which answers by naming who it was asked for, and so has no channel."""

    def __init__(self) -> None:
        files = {
            "loans": lending.pipeline(edge={"fallback": {"when": "missing"}}),
            "payroll": lending.pipeline(pipeline="payroll"),
        }
        self._declared = files.__getitem__

    async def ask(self, site: str, question: SiteQuestion, within_s: float | None) -> SiteAnswer:
        self.check_allowed(question.pipeline)
        return SiteAnswer(prediction=f"of {question.pipeline} for {site}")


class Serving:
    """The servicer, on a loop in a thread of its own, until the end of the block."""

    def __init__(self, servicer: HubServicer, address: str) -> None:
        self._servicer, self._address = servicer, address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._server = self._run(self._start())

    def __exit__(self, *error: object) -> None:
        self._run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> grpc.aio.Server:
        server = rpc.server()
        hub_pb2_grpc.add_HubServiceServicer_to_server(self._servicer, server)
        server.add_insecure_port(self._address)
        await server.start()
        return server

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def answers(address: str) -> bool:
    try:
        return bool(look(address))
    except Unavailable:
        return False


def test_a_machine_joins_once_and_is_known_by_its_certificate(running: Running, tmp_path: Path) -> None:
    token = running.token("branch-1")
    identity = join(tmp_path / "first", token)
    assert (identity.site, identity.hub) == ("branch-1", running.sites.listen)
    assert [hello(identity), hello(SiteIdentity.load(tmp_path / "first"))] == [1, 2]
    assert stat.S_IMODE((tmp_path / "first" / FILE).stat().st_mode) == 0o600
    assert Keys(tmp_path / "first" / "keys").trust() == Trust(
        {
            name: key
            for name, key in Keys(running.folder / "keys").trust().keys.items()
            if key.role in ("registry", "audit")
        }
    )
    with pytest.raises(Conflict, match="branch-1 already"):
        join(tmp_path / "first", token)
    with pytest.raises(Denied, match="was used"):
        join(tmp_path / "second", token)
    with pytest.raises(Conflict, match="name is taken"):
        running.token("branch-1")


def test_an_answer_that_was_lost_is_given_again(running: Running, tmp_path: Path) -> None:
    token = running.token("branch-2")
    identity = join(tmp_path, token)
    (tmp_path / FILE).rename(tmp_path / "lost")
    (tmp_path / "joining.key").write_text(identity.key)
    assert join(tmp_path, token) == identity


def test_a_revoked_site_is_out_at_once(running: Running) -> None:
    identity = running.joined("branch-3")
    assert hello(identity) == 1
    with running.store.transaction() as effect:
        running.table.revoke("branch-3", effect)
    with pytest.raises(Denied, match="branch-3: this site was revoked at"):
        hello(identity)


def test_who_is_let_in_asks_the_platform_for_what_its_file_allows_and_for_no_other(running: Running) -> None:
    site, revoked = running.joined("branch-10"), running.joined("branch-11")
    start, once = hello(site), hello(revoked)
    assert infer(site, start) == "of loans for branch-10"
    with pytest.raises(Denied, match="sites answer for payroll themselves"):
        infer(site, start, "payroll")
    with running.store.transaction() as effect:
        running.table.revoke("branch-11", effect)
    with pytest.raises(Denied, match="branch-11: this site was revoked"):
        infer(revoked, once)
    assert hello(site) == start + 1  # elsewhere, with the same key
    with pytest.raises(Refused, match=f"start {start} of this site was followed"):
        infer(site, start)
    key, certificate = site.key.encode(), site.certificate.encode()
    own = grpc.ssl_channel_credentials(site.authority.encode(), key, certificate)
    for method in (
        "/inference.GRPCInferenceService/ModelInfer",
        "/penstock.inference.v1.FallbackService/Answer",
        "/penstock.inference.v1.InferenceService/Predict",
    ):
        told = refused(running.sites.listen, method, credentials=own, name=SITES_NAME)
        assert "not through the door for sites" in told
    answer = "/penstock.inference.v1.FallbackService/Answer"
    assert "not through the front door" in refused(running.door.listen, answer)


def test_a_name_that_goes_to_another_machine_leaves_the_first(running: Running) -> None:
    first = running.joined("branch-4")
    assert hello(first) == 1
    token = running.token("branch-4", replace=True)
    with pytest.raises(Denied, match="another machine has its name"):
        hello(first)
    second = join(running.folder / "another", token)
    assert hello(second) == 2


def test_a_token_that_is_old_or_anothers_is_refused(running: Running, tmp_path: Path) -> None:
    token = running.token("branch-5")
    running.ahead = timedelta(hours=25)
    try:
        with pytest.raises(Denied, match="branch-5: this token expired at"):
            join(tmp_path, token)
    finally:
        running.ahead = timedelta()
    with pytest.raises(Tampered, match="who answers there has authority"):
        join(tmp_path, str(replace(Token.read(token), authority="0" * 64)))
    with pytest.raises(Denied, match="this token is unknown"):
        join(tmp_path, str(replace(Token.read(token), secret="guessed")))


def test_nobody_else_comes_in(running: Running) -> None:
    identity = running.joined("branch-6")
    service = "/penstock.edge_gateway.v1.HubService"
    known = grpc.ssl_channel_credentials(identity.authority.encode())
    at = running.sites.listen
    assert "UNAVAILABLE" in refused(at, f"{service}/Hello", credentials=known, name=SITES_NAME)
    for method in (f"{service}/Hello", "/penstock.edge_gateway.v1.EdgeGatewayService/ListSites"):
        assert "not through the door for sites" in refused(at, method, credentials=known, name=JOIN_NAME)
    thief = certificates.new_authority(datetime.now(UTC))
    key = certificates.new_key()
    forged = certificates.site_certificate(thief, "branch-6", key.public_key(), datetime.now(UTC))
    with pytest.raises(Unavailable):
        hello(replace(identity, certificate=certificates.pem(forged), key=certificates.key_pem(key)))


def test_no_header_makes_a_site(running: Running) -> None:
    honest, revoked = running.joined("branch-7"), running.joined("branch-8")
    with running.store.transaction() as effect:
        running.table.revoke("branch-8", effect)
    digest = certificates.digest(certificates.Identity.load(honest.certificate, honest.key).certificate)
    claimed = (CERTIFICATE_HEADER, f"Hash={digest}")
    with pytest.raises(Denied, match="branch-8: this site was revoked"):
        hello(revoked, claimed)
    hello_method = "/penstock.edge_gateway.v1.HubService/Hello"
    assert "did not come through the door for sites" in refused(running.hub, hello_method, claimed)
    assert "not through the front door" in refused(running.door.listen, hello_method, claimed)
    assert "PERMISSION_DENIED" in refused(running.hub, "/penstock.edge_gateway.v1.HubService/Join")


def test_a_clock_that_is_wrong_is_named_with_the_hubs(running: Running) -> None:
    identity, now = running.joined("branch-9"), datetime.now(UTC)
    assert wrong_clock(identity.hub, identity.authority, now) is None
    told = wrong_clock(identity.hub, identity.authority, now - timedelta(days=3))
    assert told
    assert f"clock says {now - timedelta(days=3):%Y-%m-%d %H:%M:%S} UTC, the hub's {now:%Y-%m-%d}" in told
    # A certificate that does not hold yet: a clock three days behind sees the same.
    running.sites.handed.unlink()
    running.authority.hand_over(running.sites.handed, now + timedelta(days=3))
    running.sites.write()

    def shut() -> bool:
        try:
            return not hello(identity)
        except Unavailable:
            return True

    until(shut, what="the door shows the other certificate")
    assert look(identity.hub, identity.authority).authority == identity.authority


@pytest.mark.parametrize("hours", [-72, -1, 1, 72])
def test_a_machine_whose_clock_is_off_joins_or_is_told_by_how_much(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """`hours`: of the site's clock ahead of the hub's. Instead of the machine's clock the certificate is
    set, which TLS looks at, and what the site reads the time from.
    """
    ahead = timedelta(hours=hours)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + ahead

    monkeypatch.setattr("penstock_edge_gateway.site.join.datetime", Clock)
    running.sites.handed.unlink()
    running.authority.hand_over(running.sites.handed, datetime.now(UTC) - ahead)
    running.sites.write()
    shown = json.loads(running.sites.handed.read_text())["certificate"]
    until(lambda: certificate_at(running.sites.listen) == shown, what="the door shows that certificate")
    token = running.token(f"clock-{hours + 100}")
    both = f"this machine's clock says {Clock.now(UTC):%Y-%m-%d %H:%M}"
    if ahead < -certificates.BACKDATED:
        with pytest.raises(Unavailable, match=f"{both}.*, the hub's {datetime.now(UTC):%Y-%m-%d}"):
            join(tmp_path, token)
        return
    identity = join(tmp_path, token)

    async def greeted() -> None:
        async with identity.channel() as channel:
            await Hub(channel).hello(lambda: Clock.now(UTC))

    with capture_logs() as logs:
        asyncio.run(greeted())
    assert both in next(one["reason"] for one in logs if one["event"] == "wrong_clock")
    with running.store.snapshot() as session:
        row = session.get_one(SiteRow, identity.site)
        assert row.clock_ahead_s == pytest.approx(ahead.total_seconds(), abs=60)


def certificate_at(address: str) -> str:
    """What the door proves itself with now, PEM."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=JOIN_NAME) as tls,
    ):
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
