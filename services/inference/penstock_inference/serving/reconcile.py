"""What is served against what should be, as values: the steps that repair the difference.

Triton forgets everything when it restarts, goes on saying ready when a model's process was killed,
and keeps what a crash of ours left behind. None of that needs an event to be mended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

CANDIDATE: Final = ".candidate."
"""In the name of a model that is only being tried: no pipeline's name has a dot, and the door has
no HTTP route for one that has.
"""


@dataclass(frozen=True)
class Restore:
    """Triton does not have what is served: load it."""

    pipeline: str
    generation: int


@dataclass(frozen=True)
class Heal:
    """Triton has it and it does not answer: unload and load; loading alone repairs nothing."""

    pipeline: str
    generation: int


@dataclass(frozen=True)
class Trim:
    """A switch was cut off: more than the served generation is loaded."""

    pipeline: str
    generation: int


@dataclass(frozen=True)
class Drop:
    """A model that nobody should call: a candidate of a process that is gone, a pipeline that is."""

    model: str


@dataclass(frozen=True)
class Deploy:
    """A promotion waits."""

    pipeline: str


Step = Restore | Heal | Trim | Drop | Deploy


def plan(
    served: Mapping[str, int],
    loaded: Mapping[str, frozenset[int]],
    silent: Collection[str],
    promoted: Collection[str],
) -> list[Step]:
    """What to do, in order: first what clients miss, then what is too much, then what is new.

    `served`: the generation that each pipeline serves by our own record. `loaded`: Triton's
    versions by model. `silent`: pipelines whose loaded version did not answer a real inference.
    `promoted`: pipelines with a promotion that was not tried yet.
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
        for model in sorted(loaded.keys() - served.keys())
        if CANDIDATE in model or model not in promoted
    ]
    return steps + [Deploy(pipeline) for pipeline in sorted(promoted)]
