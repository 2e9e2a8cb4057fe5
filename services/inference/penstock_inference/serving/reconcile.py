"""Reconciliation as values: what Triton has loaded against what should serve, and the steps that
repair the difference.

Triton forgets everything when it restarts, goes on saying ready when a model's process was killed,
and keeps what a crash of this service left there. None of that needs an event to be repaired.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

# Mark in the name of a model that is only being tried: no pipeline's name has a dot, and the door
# has no HTTP route for one that has.
CANDIDATE: Final = ".candidate."


@dataclass(frozen=True)
class _Repair:
    pipeline: str
    generation: int  # that serves


class Restore(_Repair):
    """Loads what serves, because Triton does not have it."""


class Heal(_Repair):
    """Unloads and loads what serves, because it does not answer; loading alone repairs nothing."""


class Trim(_Repair):
    """Unloads other generations beside the one that serves: a switch was cut off."""


@dataclass(frozen=True)
class Drop:
    """Unloads a model that nobody should call: a candidate of a process that is gone, a pipeline
    that is gone.
    """

    model: str


@dataclass(frozen=True)
class Deploy:
    """Deploys a promotion that waits."""

    pipeline: str


Step = Restore | Heal | Trim | Drop | Deploy


def plan(
    served: Mapping[str, int],
    loaded: Mapping[str, frozenset[int]],
    silent: Collection[str],
    promoted: Collection[str],
    unverified: Collection[str] = (),
) -> list[Step]:
    """Plans the steps in order: first what clients miss, then what is too much, then what is new.

    `served`: generation that each pipeline should serve. `loaded`: generations that Triton has, by
    model. `silent`: pipelines whose loaded version did not answer a real inference. `promoted`:
    pipelines with a promotion that may be tried now. `unverified`: pipelines that served, and cannot
    be verified for now: what Triton has of them was verified before it was loaded, and stays.
    """
    steps: list[Step] = []
    for pipeline, generation in sorted(served.items()):
        versions = loaded.get(pipeline, frozenset())
        if generation not in versions:
            steps.append(Restore(pipeline, generation))
        elif pipeline in silent:
            steps.append(Heal(pipeline, generation))
        elif len(versions) > 1 and pipeline not in promoted:
            steps.append(Trim(pipeline, generation))
    steps += [
        Drop(model)
        for model in sorted(loaded.keys() - served.keys() - set(unverified))
        if CANDIDATE in model or model not in promoted
    ]
    return steps + [Deploy(pipeline) for pipeline in sorted(promoted)]
