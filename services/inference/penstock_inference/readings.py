"""Readings of inference: values for the metrics. Its facts are told where they change."""

from __future__ import annotations

from penstock.contracts.digests import short_digest
from penstock.contracts.metrics import DEPLOYMENTS, DOOR_CLOSED, DOOR_HELD, RECORDER_BACKLOG, SERVED
from penstock.runtime.metrics import Reading, Readings
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.record.recorder import Recorder
from penstock_inference.serving.deployment import Deployments


def metrics(deployments: Deployments, recorder: Recorder, keeper: DoorKeeper) -> Readings:
    return {
        DEPLOYMENTS: lambda: _deployments(deployments),
        SERVED: lambda: [
            (float(model.generation), {"pipeline": pipeline, "digest": short_digest(model.digest)})
            for pipeline, model in deployments.models.items()
        ],
        DOOR_HELD: lambda: [(float(keeper.held), {})],
        DOOR_CLOSED: lambda: [(float(keeper.closed is not None), {})],
        RECORDER_BACKLOG: lambda: [(float(recorder.backlog_bytes), {})],
    }


def _deployments(deployments: Deployments) -> list[Reading]:
    found = list(deployments)
    counts = {
        "wanted": sum(bool(one.served or one.promotions) and not one.stopped for one in found),
        "served": sum(one.answering for one in found),
        "refused": sum(one.refused is not None for one in found),
    }
    return [(float(count), {"state": state}) for state, count in counts.items()]
