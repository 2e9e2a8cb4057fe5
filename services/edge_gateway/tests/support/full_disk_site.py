"""A site whose whole folder, its log too, lies on a disk that is full: `full_disk_site.py FOLDER`, in a
mount namespace of its own. Ends with 0 where it takes, refuses and answers as it should.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import orjson
from tritonclient.grpc import service_pb2

from penstock.edge_gateway.v1 import site_pb2
from penstock.edge_gateway.v1.site_pb2_grpc import SiteServiceStub
from penstock.packages import trust_updates
from penstock.packages.admission import Admission, from_artifacts
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.testing import packages
from penstock.testing.promoting import NAME, Registry
from penstock.testing.site import SiteUnderTest
from penstock.testing.wait import until, until_async
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trial import Bounds
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_edge_gateway.site.versions import Versions

EVENT = {"application_id": "a1", "applicant_id": "p1", "at": "2026-03-01T12:00:00Z", "purpose": "x" * 5000}


async def furnish(home: Path) -> None:
    """All that a hub would have told the site."""
    registry = Registry.at(home, KafkaSettings())
    keys, clock = registry.keys, lambda: datetime.now(UTC)
    SiteIdentity("branch-1", "127.0.0.1:1", "", "", "").save(home)
    updates = trust_updates.appended((), keys.trust().keys, keys.signer("registry"))
    SiteTrust(home).begin(trust_updates.written(updates))
    pipelines = Pipelines(home / "pipelines", home / "keys")
    pipelines.apply(packages.applied(keys))
    admission = Admission(from_artifacts(registry.artifacts.fetch), home / "keys", home / "packages")
    bounds = Bounds(calls=1, errors=0, p99_ms=60_000)
    versions, readiness = Versions(home / "versions"), Readiness(clock)
    serving = Serving(versions, admission, bounds, readiness, clock, pipelines.stopped)
    serving.promoted(registry.version())
    running = asyncio.create_task(serving.run())
    await until_async(lambda: serving.models)
    running.cancel()


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Another program takes all that is left of the disk."""
    with (disk / "of-others").open("wb", buffering=0) as other:
        with contextlib.suppress(OSError):
            while other.write(b"x" * 4096):
                pass
        yield
    (disk / "of-others").unlink()


class Asked:
    def __init__(self, site: SiteUnderTest) -> None:
        self._channel = grpc.insecure_channel(site.endpoint)
        self._stub = SiteServiceStub(self._channel)
        infer: Callable[..., Any] = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )
        self._infer = infer
        row = service_pb2.ModelInferRequest(model_name=NAME, raw_input_contents=[bytes(8), b"\3\0\0\0car"])
        for name, datatype in (("numbers", "FP64"), ("strings", "BYTES")):
            row.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        self._row = row

    def answers(self) -> bool:
        return bool(self._infer(self._row, timeout=60, wait_for_ready=True).outputs)

    def takes(self) -> bool:
        """Publishes 200 kB. Tells whether the site had room for it."""
        request = site_pb2.PublishRequest(
            pipeline=NAME, source="applications", events=[orjson.dumps(EVENT)] * 40
        )
        try:
            return bool(self._stub.Publish(request, timeout=20).accepted)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False

    def status(self) -> site_pb2.SiteStatus:
        return self._stub.GetStatus(site_pb2.GetStatusRequest(), timeout=20)


def main(disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", disk], check=True)
    asyncio.run(furnish(disk / "site"))
    with SiteUnderTest(disk / "site") as site:
        asked = Asked(site)
        site.start()
        assert asked.answers()
        assert asked.takes()
        with filled(disk):
            until(lambda: not asked.takes(), what="the site has no room for events")
            assert all(asked.answers() for _ in range(300))
            events, predictions = asked.status().lanes
            assert events.full_since.seconds
            assert predictions.dropped > 0
            site.kill()
            site.start()
            asked = Asked(site)  # the line to the killed one may not know yet that it is dead
            assert asked.answers()
            assert asked.status().lanes[0].records >= events.records
        until(asked.takes, what="room that came back is used")
        assert asked.answers()
        site.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
