"""Doubts about a pipeline that breaks no rule: what its owner should have meant, or should mend."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.contracts.measures import FOUR_FIFTHS
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.sources import ROW_IDS
from penstock.contracts.rules.problem import Problem, failing

_ANSWERS = frozenset({"target", "label", "outcome", "answer", "y"})
_SHORTEST = 3  # letters of a target's name that another name may hold by chance


def doubts(pipeline: Pipeline) -> list[Problem]:
    """Finds what to warn of, each at the path of its key, in the file's order."""
    return [*_ids(pipeline), *_inputs(pipeline), *_gates(pipeline), *_four_fifths(pipeline)]


def _ids(pipeline: Pipeline) -> Iterator[Problem]:
    """An id that is made of a row tells a value that stays at a site to who knows the rest and tries."""
    for name, source in pipeline.sources.items():
        if "edge" not in pipeline.model_fields_set or not (withheld := sorted(pipeline.withheld(name))):
            continue
        for field, column in source.columns.items():
            if column in ROW_IDS:
                yield Problem(
                    ("sources", name, "columns", field),
                    f"it is a digest of the whole row and leaves a site: who knows the rest can find out"
                    f" `{withheld[0]}` by trying; name rows by a column, or publish to no site",
                )


def _inputs(pipeline: Pipeline) -> Iterator[Problem]:
    target = pipeline.target.source_field.partition(".")[2]
    for name, feature in pipeline.resolved_features().items():
        field = feature.source_field.partition(".")[2]
        at = ("features", name) if name in pipeline.features else ("features",)
        if pipeline.field(feature.source_field).protected:
            yield Problem(at, f"`{name}` is protected and an input: the model decides by it")
        if _names_the_answer(field, target):
            yield Problem(
                at,
                f"`{name}` looks like the target `{target}` by another name; leave it out if nobody knows it"
                " at the time of the decision",
            )


def _names_the_answer(field: str, target: str) -> bool:
    words, answer = _words(field), _words(target)
    held = answer <= words and len("".join(answer)) >= _SHORTEST
    stems = {_stem(word) for word in words}
    return held or words <= _ANSWERS or _stem(field) == _stem(target) or {*map(_stem, answer)} <= stems


def _words(name: str) -> frozenset[str]:
    parts = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return frozenset(part for part in parts if part)


def _stem(name: str) -> str:
    """A word without the ending of a past tense, a name without what marks a copy, too: `is_`, `_flag`."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return re.sub(r"^(?:is|has)|(?:flag|code|bool|binary|num|copy|ed|d)$", "", plain)


def _gates(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.audit.gates:
        return
    yield from failing(
        (
            pipeline.serves_unjudged,
            ("audit",),
            "there is no gate: every version is measured, and none is judged; add `gates`",
        ),
        (
            not pipeline.serves_unjudged,
            ("audit",),
            "there is no gate: every version is measured, and none is judged, so none may serve; add"
            " `gates`, or allow it by `promotion: {without_gates: allowed}`",
        ),
    )


def _four_fifths(pipeline: Pipeline) -> Iterator[Problem]:
    """A ratio of the decision that is bad for a person is no four-fifths rule."""
    target = pipeline.target
    if target.favourable is None:
        return
    meant = FOUR_FIFTHS[target.favourable == (True if target.positive is None else target.positive)]
    for number, gate in enumerate(pipeline.audit.gates):
        if gate.metric in FOUR_FIFTHS and gate.metric != meant:
            yield Problem(
                ("audit", "gates", number, "metric"),
                f"it compares how often groups do not get the favourable decision, `{target.favourable}`; the"
                f" four-fifths rule compares how often they do: `{meant}`",
            )
