"""Warm start: trials of an ended study that another one may know from its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock.contracts.errors import Conflict
from penstock.contracts.pipeline import Pipeline, Split
from penstock.contracts.pipeline.tuner import formulas
from penstock.contracts.space import Space
from penstock_tuner.search.tried import Tried


def same_split(mine: Pipeline, theirs: Pipeline) -> None:
    """Raises Conflict where a study of `theirs` looked at rows that `mine` is audited on, or minimised
    something else: what it found would be no honest start.
    """
    for what, one, other in (
        ("target", mine.targets, theirs.targets),
        ("entities", mine.entities, theirs.entities),
        ("split", _split(mine), _split(theirs)),
        ("training.seed", mine.training.seed, theirs.training.seed),
    ):
        if one != other:
            raise Conflict(
                f"the earlier study's pipeline has another `{what}`: its trials were chosen on rows that"
                " would be audited now",
                remedy="Start the study without it, or go back to the same split",
            )
    if formulas(mine.tuner) != formulas(theirs.tuner):
        raise Conflict(
            "the earlier study minimised something else, so that its values cannot be compared",
            remedy="Start the study without it, or minimise the same",
        )


def _split(pipeline: Pipeline) -> Split:
    return pipeline.split or Split(by=pipeline.entity)


def known(space: Space, tried: Sequence[Tried]) -> list[Tried]:
    """Ended trials that lie in the space, numbered from -1 downwards: `best` and fronts leave them out,
    as their weights are of another training set.
    """
    ended = [one for one in tried if one.state != "running" and one.choices and space.holds(one.choices)]
    return [replace(one, number=-1 - place) for place, one in enumerate(ended)]
