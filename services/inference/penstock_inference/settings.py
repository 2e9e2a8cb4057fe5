"""Settings of inference and of its door: `PENSTOCK_INFERENCE__…`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from penstock.contracts.durations import parse_duration
from penstock.contracts.services import PLATFORM
from penstock.contracts.site_door import FILE, FOLDER
from penstock.runtime import ports
from penstock.runtime.settings import ServiceSettings, service_config
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.sites import SiteListener
from penstock_inference.serving.repository import Device

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]  # `7d`, `30m`, `250ms`


class Settings(ServiceSettings):
    model_config = service_config("inference")

    triton_grpc: str = "127.0.0.1:8001"
    """Address of Triton: `host:port`, or `unix:` and the path of a socket."""
    gateway_http: str = "127.0.0.1:9187"
    """Address of the gateway, which reads the protocol's HTTP: `host:port`, or `unix:` and a path."""
    gateway_grpc: str = "127.0.0.1:9188"
    """Address of the gateway for calls over gRPC that Triton must not read unchecked."""
    triton_device: Device = "cpu"
    """Device on which Triton runs the models. `gpu`: one instance on each GPU that its container
    sees; needs NVIDIA's image.
    """
    door_listen: str = ""
    """Address at which Envoy listens; by default `PENSTOCK_ENDPOINT`. In a container: 0.0.0.0:9080.
    """
    door_admin: str = "127.0.0.1:9199"
    """Address at which Envoy says whether it is ready: its own administration, never to be reached
    from outside, or `door_health_listen`.
    """
    door_admin_listen: str = ""
    """Address at which Envoy's administration listens; by default `door_admin`. In a container:
    127.0.0.1:9199, out of reach of the others.
    """
    door_health_listen: str = ""
    """Address at which Envoy answers GET /ready and /stats/prometheus and nothing else; by default
    none, and calls are not counted by their status. In a container: 0.0.0.0:9198.
    """
    sites_listen: str = f"127.0.0.1:{ports.SITES}"
    """Address at which Envoy listens for sites, once the edge hub has made what that needs. In a
    container: 0.0.0.0:9443.
    """
    door_traces: str = ""
    """Collector (OTLP over gRPC) to which Envoy sends a span for each call, as host:port. Envoy
    must be started again when this changes.
    """

    reconcile_every: Duration = timedelta(seconds=2)
    """Interval at which Triton's models are compared with those that should serve, each one is
    probed, and the door's log is looked at.
    """
    log_rotate_bytes: int = Field(default=64 << 20, ge=4096)
    """Size at which the door's log is rotated."""
    log_rotate_after: Duration = timedelta(hours=1)
    """Age at which the door's log is rotated, however small it is."""
    log_keep: Duration = timedelta(hours=1)
    """Age at which a published log file is removed."""
    log_reserve_bytes: int = Field(default=64 << 20, ge=0)
    """Free space that must be left on the disk: with less the log counts as not writable, and the
    door closes if a pipeline says `record: required`.
    """

    @property
    def repository(self) -> Path:
        """Folder of Triton's model repository, which this service writes."""
        return self.platform.home.resolve() / "triton" / "models"

    @property
    def door(self) -> Door:
        own = self.platform.peers.get("inference") or self.address  # perhaps all of this machine's
        return Door(
            folder=self.platform.home.resolve() / "envoy",
            listen=self.door_listen or self.platform.endpoint,
            admin=self.door_admin,
            backends=Backends(self.triton_grpc, self.gateway_grpc, self.gateway_http),
            services={service: self.platform.peer(service) for service in PLATFORM} | {"inference": own},
            admin_listen=self.door_admin_listen,
            health_listen=self.door_health_listen,
            traces=self.door_traces,
        )

    @property
    def site_listener(self) -> SiteListener:
        home = self.platform.home.resolve()
        return SiteListener(self.sites_listen, self.door.folder, home / FOLDER / FILE)
