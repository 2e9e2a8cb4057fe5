"""What `penstock status` says of the registry, in a few words."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from penstock.contracts.versions import version_name
from penstock_model_registry.store import PipelineRow, VersionRow, states


def facts(session: Session) -> dict[str, str]:
    """One short text a key."""
    pipelines = session.scalar(select(func.count(PipelineRow.name.distinct()))) or 0
    found = states(session)
    said = [_count(sum(found.values()), "version")]
    said += [f"{found[state]} {state}" for state in ("promoted", "refused") if state in found]
    newest = session.scalar(select(VersionRow).order_by(VersionRow.registered_at.desc()).limit(1))
    if newest is not None and not newest.signed:
        said.append(
            f"the newest, {version_name(newest.pipeline, newest.digest)}: {'; '.join(newest.because)}"
        )
    return {"pipelines": _count(pipelines, "pipeline"), "versions": ", ".join(said)}


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
