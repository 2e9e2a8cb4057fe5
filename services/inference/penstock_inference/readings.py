"""Measures of inference, read at each export from the exporter's thread."""

from __future__ import annotations

from penstock.contracts import metrics
from penstock.contracts.digests import short_digest
from penstock.runtime.metrics import Read, Reading
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.record.recorder import Recorder
from penstock_inference.serving.deployment import Deployments
from penstock_inference.serving.serving import Serving


def readings(
    deployments: Deployments, serving: Serving, recorder: Recorder, keeper: DoorKeeper
) -> dict[metrics.Metric, Read]:
    """Readers of all measures of this service."""
    return {
        metrics.DEPLOYMENTS: lambda: _deployments(deployments),
        metrics.SERVED: lambda: [
            (float(model.generation), {"pipeline": pipeline, "digest": short_digest(model.digest)})
            for pipeline, model in deployments.models.items()
        ],
        metrics.DOOR_HELD: lambda: [(float(serving.held), {})],
        metrics.DOOR_CLOSED: lambda: [(float(keeper.closed is not None), {})],
        metrics.RECORDER_BACKLOG: lambda: [(float(recorder.backlog_bytes), {})],
    }


def _deployments(deployments: Deployments) -> list[Reading]:
    found = list(deployments)
    counts = {
        "wanted": sum(bool(one.served or one.promotions) for one in found),
        "served": sum(one.answering for one in found),
        "refused": sum(one.refused is not None for one in found),
    }
    return [(float(count), {"state": state}) for state, count in counts.items()]
