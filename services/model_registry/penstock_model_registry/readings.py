"""Readings of the registry: facts for `penstock status`, values for the metrics."""

from __future__ import annotations

from typing import get_args

from sqlalchemy import func, select

from penstock.contracts.metrics import VERSIONS
from penstock.contracts.verdicts import WAITS
from penstock.contracts.versions import version_name
from penstock.runtime.metrics import Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_model_registry.store import PipelineRow, State, VersionRow, states


def facts(store: Store) -> Facts:
    with store.snapshot() as session:
        pipelines = session.scalar(select(func.count(PipelineRow.name.distinct()))) or 0
        found = states(session)
        refused = session.scalars(select(VersionRow.because).where(VersionRow.state == "refused"))
        waiting = sum(WAITS in because for because in refused)
        newest = session.scalar(select(VersionRow).order_by(VersionRow.registered_at.desc()).limit(1))
    said = [_count(sum(found.values()), "version")]
    counts = {
        "promoted": found.get("promoted", 0),
        "refused": found.get("refused", 0) - waiting,
        "waiting for a review": waiting,
    }
    said += [f"{count} {state}" for state, count in counts.items() if count]
    if newest is not None and not newest.signed:
        because = "; ".join(newest.because)
        said.append(f"the newest, {version_name(newest.pipeline, newest.digest)}: {because}")
    return {"pipelines": _count(pipelines, "pipeline"), "versions": ", ".join(said)}


def metrics(store: Store) -> Readings:
    def versions() -> list[Reading]:
        with store.snapshot() as session:
            found = states(session)
        return [(float(found.get(state, 0)), {"state": state}) for state in get_args(State)]

    return {VERSIONS: versions}


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
