"""The site's wiring, and the only file that knows all the others of it."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Iterable
from functools import partial
from importlib import metadata
from typing import Final

import structlog

from penstock.contracts.errors import PenstockError
from penstock.edge_gateway.v1.site_pb2_grpc import add_SiteServiceServicer_to_server
from penstock.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from penstock.packages.admission import Admission
from penstock.runtime.process import Process
from penstock_edge_gateway.site import http, open_inference
from penstock_edge_gateway.site.fallback import Fallback
from penstock_edge_gateway.site.fetching import PackageFetch
from penstock_edge_gateway.site.forwarder import Forwarder
from penstock_edge_gateway.site.greeting import with_hub
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.inference import Inference
from penstock_edge_gateway.site.introduction import wrong_clock
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.open_inference import OpenInference
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.recorder import Recorder
from penstock_edge_gateway.site.reporting import Reporting
from penstock_edge_gateway.site.servicer import Servicer
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.settings import Settings
from penstock_edge_gateway.site.signature import verify_apart
from penstock_edge_gateway.site.site_servicer import SiteServicer
from penstock_edge_gateway.site.spool import Spool
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_edge_gateway.site.versions import Versions
from penstock_edge_gateway.site.watch import Watch

log = structlog.get_logger(__name__)

GRPC: Final = (
    open_inference.SERVICE,
    "penstock.inference.v1.InferenceService",
    "penstock.edge_gateway.v1.SiteService",
)
VERSION: Final = metadata.version("penstock-edge-gateway")


async def run(settings: Settings) -> None:
    home = settings.data_dir
    try:
        identity = SiteIdentity.load(home)
    except PenstockError as error:
        sys.exit(str(error))
    with (
        Spool(home / "events.db", durable=True, size=settings.spool_size) as events,
        Spool(home / "predictions.db", durable=False, size=settings.spool_size) as predictions,
    ):
        async with identity.channel() as channel, Process("site", settings, GRPC) as process:
            hub = Hub(channel, lambda: wrong_clock(identity.hub, identity.authority, process.clock()))
            lanes = Lane("events", events), Lane("predictions", predictions)
            _tell_of_damage(process, lanes)
            pipelines = Pipelines(home / "pipelines", settings.keys)
            serving = _serving(settings, process, hub, pipelines)
            recorder = Recorder(
                identity.site, lanes[1], pipelines=pipelines.get, age=settings.spool_age, clock=process.clock
            )
            fallback = Fallback(hub, pipelines, serving.missing)
            answers = _predicts(process, serving, Inference(serving, recorder), fallback)
            pseudonyms = PseudonymKeys(home / "pseudonyms")
            publisher = _publisher(settings, process, lanes[0], pipelines, pseudonyms)
            trust = SiteTrust(home)
            reporting = Reporting(
                identity.site, hub, serving, fallback, trust, lanes, publisher.rejects, process.clock
            )
            process.serve(add_SiteServiceServicer_to_server, SiteServicer(publisher, reporting.status))
            process.describe(serving.facts)
            process.describe(lambda: {"hub": f"the hub is away: {hub.why}" if hub.why else "the hub answers"})

            await asyncio.to_thread(pipelines.restore)
            await serving.restore()
            gc.freeze()  # what is loaded by now stays
            process.background("serving", serving.run)
            process.background("records", recorder.expire)
            process.background("log of records", lanes[1].checkpoint)
            over_http = partial(http.serve, answers, publisher, settings.host, settings.http_port)
            process.background("http", over_http)

            # Of events alone: a site predicts by fields, so records of that name no entity.
            watch = Watch(hub, serving, pipelines, trust, pseudonyms, reporting, lanes[0].erase)
            forwarders = [Forwarder(lane, hub, settings.forward_rate or math.inf) for lane in lanes]
            process.background("hub", lambda: with_hub(hub, watch.run, forwarders))
            await process.until_stopped()


def _tell_of_damage(process: Process, lanes: Iterable[Lane]) -> None:
    for lane in lanes:
        if aside := lane.spool.aside:
            said = f"{lane.name} that waited for the hub were damaged, and lie aside: {aside}"
            log.error("spool_damaged", lane=lane.name, lies_aside=str(aside))
            process.readiness.fact(f"damaged {lane.name}", said)


def _serving(settings: Settings, process: Process, hub: Hub, pipelines: Pipelines) -> Serving:
    home = settings.data_dir
    fetch = PackageFetch(hub, home / "incoming", asyncio.get_running_loop())
    admission = Admission(fetch, settings.keys, home / "packages", verify_apart)
    return Serving(
        Versions(home / "versions"),
        admission,
        settings.bounds,
        process.readiness,
        process.clock,
        pipelines.stopped,
    )


def _publisher(
    settings: Settings, process: Process, lane: Lane, pipelines: Pipelines, pseudonyms: PseudonymKeys
) -> Publisher:
    age, pseudonym = settings.spool_age, pseudonyms.pseudonym
    return Publisher(pipelines.get, lane, age=age, clock=process.clock, pseudonym=pseudonym)


def _predicts(process: Process, serving: Serving, inference: Inference, fallback: Fallback) -> OpenInference:
    # By tensors and by fields; over HTTP the first alone.
    answers = OpenInference(serving, inference, fallback, process.readiness, VERSION)
    process.serve(open_inference.add_to_server, answers)
    process.serve(add_InferenceServiceServicer_to_server, Servicer(serving, inference, fallback))
    return answers
