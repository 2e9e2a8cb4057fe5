"""Rules for `model`: keys that fit each other, and the features that they name."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.pipeline import Embedding, FtTransformer, Monotone, Number, OneHot, Pipeline, WideDeep
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.problem import Problem, failing, nearest


def model(pipeline: Pipeline) -> Iterator[Problem]:
    """Finds problems of a model whose features are good."""
    yield from _monotone(pipeline)
    yield from _crosses(pipeline)
    yield from _heads(pipeline)


def _monotone(pipeline: Pipeline) -> Iterator[Problem]:
    """Constraints on what is no number, or that the target gives no meaning."""
    if not isinstance(pipeline.model, Monotone):
        return
    known, kind = pipeline.resolved_features(), pipeline.target.type
    for name in pipeline.model.monotone:
        at: Path = ("model", "monotone", name)
        yield from failing(
            (name not in known, at, f"no feature `{name}`{nearest(name, known)}"),
            (
                name in known and not isinstance(known[name], Number),
                at,
                f"`{name}` is no number: its values have no order to rise in",
            ),
            (kind == "multiclass", at, "`monotone` is for a binary target or a regression"),
        )


def _crosses(pipeline: Pipeline) -> Iterator[Problem]:
    """Crosses of what has no values to combine."""
    if not isinstance(pipeline.model, WideDeep):
        return
    known, crosses = pipeline.resolved_features(), pipeline.model.crosses
    for number, cross in enumerate(crosses):
        at: Path = ("model", "crosses", number)
        yield from failing(
            (len(set(cross)) < len(cross), at, "a cross is of different features"),
            (
                any(set(cross) == set(other) for other in crosses[:number]),
                at,
                "this cross stands above; leave it out",
            ),
        )
        for place, name in enumerate(cross):
            yield from failing(
                (name not in known, (*at, place), f"no feature `{name}`{nearest(name, known)}"),
                (
                    name in known and not isinstance(known[name], Embedding | OneHot),
                    (*at, place),
                    f"`{name}` is no category: it has no values to combine",
                ),
            )


def _heads(pipeline: Pipeline) -> Iterator[Problem]:
    model = pipeline.model
    if isinstance(model, FtTransformer) and model.d % model.heads:
        yield Problem(
            ("model", "d"), f"a token of {model.d} numbers has no {model.heads} equal parts (`heads`)"
        )
