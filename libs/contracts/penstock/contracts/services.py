"""The table of services: one row each, with its gRPC service, port, memory and needs.

Ports, metrics groups, the door's reflection and status and the embedded stack read it; `make gen`
writes what follows from it into files that cannot (`deploy/services.py`): docker-compose.yml and
its overlays, `.env`, the databases, the checks in pyproject.toml. A row enters with the service's
folder, `services/<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition:
    name: str  # Name in Python: the member is `services/<name>`, its package `penstock_<name>`.
    # Full name of its gRPC service, `penstock.<name>.v1.…Service` from `<name>.proto`; empty: it
    # has none beyond health, reflection and status.
    grpc: str = ""
    # Default gRPC port. In containers always this one; `penstock up` takes others on a clash.
    port: int
    memory: str  # Default limit of its container: 512m, 1g.
    extras: tuple[str, ...] = ()  # Extras of the member that its image has; none named: all
    # `site`: runs outside the platform's network only, so neither the door nor a stack knows it.
    place: Literal["platform", "site"] = "platform"
    replicas: int = 1  # Containers in deploy/compose/cluster.yaml
    database: bool = True
    jobs: bool = False  # Long work in child processes
    consumer_group: bool = True  # Shares its topics with its replicas; False: reads them whole.
    torch: bool = False  # True where child processes import torch and `penstock.modelkit`
    files: bool = False  # Keeps files of its own, in `$PENSTOCK_HOME/<name>`: a volume.
    # Folders of the artifact store that it uses. `write`: reads, too; `delete`: writes, too.
    artifacts: Mapping[str, Literal["read", "write", "delete"]] = field(default_factory=dict)
    # `verify`: reads the trust store. A role of `penstock.packages.keys`: signs as that, too.
    keys: Literal["verify", "registry", "audit", "trainer", "feature_store"] = "verify"
    online_store: bool = False  # Redis in containers
    triton: bool = False  # Writes Triton's model repository and Envoy's files
    sites: bool = False  # Makes what the door for sites needs (`penstock.contracts.site_door`)

    @property
    def container(self) -> str:
        """Name in compose files and of its image."""
        return self.name.replace("_", "-")

    @property
    def packages(self) -> str:
        """Name of the file in `deploy/images` and of the image layer with what it depends on."""
        return "torch" if self.torch else self.name


_ROWS: Final = (
    ServiceDefinition(
        name="ingest",
        grpc="penstock.ingest.v1.IngestService",
        port=9181,
        memory="1g",
        replicas=2,
        database=False,
    ),
    ServiceDefinition(
        name="feature_store",
        grpc="penstock.feature_store.v1.FeatureStoreService",
        port=9182,
        memory="2g",
        replicas=2,
        files=True,
        artifacts={"training-sets": "delete"},
        keys="feature_store",
        online_store=True,
    ),
    ServiceDefinition(
        name="trainer",
        grpc="penstock.trainer.v1.TrainerService",
        port=9183,
        memory="4g",
        replicas=2,
        jobs=True,
        torch=True,
        files=True,
        artifacts={"training-sets": "read", "imports": "delete", "packages": "write"},
        keys="trainer",
    ),
    ServiceDefinition(
        name="tuner",
        grpc="penstock.tuner.v1.TunerService",
        port=9189,
        memory="4g",
        jobs=True,
        torch=True,
        files=True,
        artifacts={"training-sets": "read"},
    ),
    ServiceDefinition(
        name="model_registry",
        grpc="penstock.model_registry.v1.ModelRegistryService",
        port=9184,
        memory="1g",
        replicas=2,
        artifacts={"packages": "delete", "signatures": "delete", "audits": "read"},
        keys="registry",
    ),
    ServiceDefinition(
        name="ethics_audit",
        grpc="penstock.ethics_audit.v1.EthicsAuditService",
        port=9185,
        memory="2g",
        jobs=True,
        artifacts={
            "training-sets": "read",
            "packages": "read",
            "signatures": "read",
            "audits": "write",
        },
        keys="audit",
    ),
    ServiceDefinition(
        name="inference",
        grpc="penstock.inference.v1.InferenceService",
        port=9186,
        memory="1g",
        consumer_group=False,
        files=True,
        artifacts={"packages": "read", "signatures": "read"},
        triton=True,
    ),
    ServiceDefinition(
        name="edge_gateway",
        extras=("hub", "s3"),
        grpc="penstock.edge_gateway.v1.EdgeGatewayService",
        port=9190,
        memory="512m",
        consumer_group=False,
        files=True,
        artifacts={"packages": "read", "signatures": "read"},
        sites=True,
    ),
)
SERVICES: Final = {row.name: row for row in _ROWS}
"""Services by name, in the order in which they are listed everywhere."""
PLATFORM: Final = {name: row for name, row in SERVICES.items() if row.place == "platform"}
"""Services behind the front door."""
