"""A site's disk as a hub would have filled it, for benchmarks of sites."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from penstock.contracts.events import ModelVersionPromoted, PipelineApplied
from penstock.packages.admission import Admission, from_artifacts
from penstock.runtime.readiness import Readiness
from penstock.testing.promoting import Registry
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trial import Bounds
from penstock_edge_gateway.site.versions import Versions


async def grant(home: Path, registry: Registry, file: PipelineApplied, version: ModelVersionPromoted) -> Path:
    """Has the disk hold the file and the version, of a registry whose keys lie there; returns its graph."""
    admission = Admission(from_artifacts(registry.artifacts.fetch), home / "keys", home / "packages")
    bounds = Bounds(calls=1, errors=0, p99_ms=60_000)
    readiness = Readiness(lambda: datetime.now(UTC))
    serving = Serving(Versions(home / "versions"), admission, bounds, readiness, lambda: datetime.now(UTC))
    Pipelines(home / "pipelines", home / "keys").apply(file)
    serving.promoted(version)
    task = asyncio.create_task(serving.run())
    await until_async(lambda: serving.models)
    task.cancel()
    return serving.models[version.version.pipeline].package.model
