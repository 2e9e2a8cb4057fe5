"""Rules for `model`: keys that fit each other, features that they name, members that go together."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.pipeline import (
    Embedding,
    Ensemble,
    FtTransformer,
    Monotone,
    Number,
    OneHot,
    Pipeline,
    WideDeep,
)
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.problem import Problem, failing, nearest


def model(pipeline: Pipeline) -> Iterator[Problem]:
    """Finds problems of a model whose features are good."""
    yield from _members(pipeline)
    for at, each in models(pipeline):
        yield from _monotone(each, at)
        yield from _crosses(each, at)
        yield from _heads(each, at)


def models(pipeline: Pipeline) -> Iterator[tuple[Path, Pipeline]]:
    """The pipeline with each model that it trains, and the place of that in the file."""
    alone = not isinstance(pipeline.model, Ensemble)
    for number, each in enumerate(pipeline.members()):
        yield ("model",) if alone else ("model", "members", number), each


def _members(pipeline: Pipeline) -> Iterator[Problem]:
    """Members that are there twice, or that alone keep a constraint: the average would not."""
    if not isinstance(pipeline.model, Ensemble):
        return
    members, trainers = pipeline.model.members, pipeline.model.trainers
    if len(members) < 2:
        yield Problem(("model", "members"), "an ensemble has two members or more")
    if trainers and len(trainers) != len(members):
        yield Problem(("model", "trainers"), f"give one for each of the {len(members)} members, or none")
        return
    trained = [*zip(members, trainers or (None,) * len(members), strict=True)]
    for number, member in enumerate(members):
        at: Path = ("model", "members", number)
        held = getattr(member, "monotone", {})
        free = next((other.type for other in members if getattr(other, "monotone", {}) != held), "")
        yield from failing(
            (
                trained[number] in trained[:number],
                at,
                "this member stands above; leave it out, or change a key",
            ),
            (
                held and free,
                (*at, "monotone"),
                f"the member `{free}` is not held to this, so that the ensemble is not; write it for each"
                " member, or for none",
            ),
        )


def _monotone(pipeline: Pipeline, place: Path) -> Iterator[Problem]:
    """Constraints on what is no number, or that the target gives no meaning."""
    if not isinstance(pipeline.model, Monotone):
        return
    known, kind = pipeline.resolved_features(), pipeline.target.type
    for name in pipeline.model.monotone:
        at: Path = (*place, "monotone", name)
        yield from failing(
            (name not in known, at, f"no feature `{name}`{nearest(name, known)}"),
            (
                name in known and not isinstance(known[name], Number),
                at,
                f"`{name}` is no number: its values have no order to rise in; leave it out",
            ),
            (kind == "multiclass", at, "`monotone` is for a binary target or a regression"),
        )


def _crosses(pipeline: Pipeline, place: Path) -> Iterator[Problem]:
    """Crosses of what has no values to combine."""
    if not isinstance(pipeline.model, WideDeep):
        return
    known, crosses = pipeline.resolved_features(), pipeline.model.crosses
    for number, cross in enumerate(crosses):
        at: Path = (*place, "crosses", number)
        yield from failing(
            (len(set(cross)) < len(cross), at, "a cross is of different features; name each once"),
            (
                any(set(cross) == set(other) for other in crosses[:number]),
                at,
                "this cross stands above; leave it out",
            ),
        )
        for part, name in enumerate(cross):
            yield from failing(
                (name not in known, (*at, part), f"no feature `{name}`{nearest(name, known)}"),
                (
                    name in known and not isinstance(known[name], Embedding | OneHot),
                    (*at, part),
                    f"`{name}` is no category: it has no values to combine",
                ),
            )


def _heads(pipeline: Pipeline, place: Path) -> Iterator[Problem]:
    model = pipeline.model
    if isinstance(model, FtTransformer) and model.d % model.heads:
        said = f"a token of {model.d} numbers has no {model.heads} equal parts (`heads`)"
        yield Problem((*place, "d"), said)
