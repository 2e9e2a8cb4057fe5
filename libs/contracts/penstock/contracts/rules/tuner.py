"""Rules for `tuner`: formulas over what is measured, a space that the file's families can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from pydantic import JsonValue, ValidationError

from penstock.contracts.formula import parse
from penstock.contracts.measures import Measure, between_groups, over_rows
from penstock.contracts.pipeline import Limits, NoPruner, Pipeline, Trainer
from penstock.contracts.pipeline.tuner import Objectives, OneObjective, formulas
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.features import features
from penstock.contracts.rules.problem import Problem, failing, nearest
from penstock.contracts.rules.space import FAMILIES, Reader, types_of
from penstock.contracts.rules.training import CONSTRAINTS, training
from penstock.contracts.space import Keys, Space, Types

LOSSES = ("train_loss", "validation_loss")
COSTS = ("latency_us", "processor_s")
_AT: Path = ("tuner", "space")
_SECTIONS = ("model", "trainer", "features")
_STRENGTH = {"low": 0.01, "high": 10.0, "log": True}


def tuner(pipeline: Pipeline) -> Iterator[Problem]:
    """Finds problems of a `tuner` section; what is meant where there is none is always good."""
    if "tuner" not in pipeline.model_fields_set:
        return
    section, split = pipeline.tuner, pipeline.split
    yield from failing(
        (section.budget.time == timedelta(0), ("tuner", "budget", "time"), "write how long, as in 30m"),
        (
            (section.evaluate.folds or 1) > 1 and split and split.by == "time",
            ("tuner", "evaluate", "folds"),
            "with `split.by: time` other folds would train on what came later; leave it out",
        ),
    )
    yield from _goal(pipeline)
    if not [*features(pipeline), *training(pipeline)]:
        yield from search_space(pipeline)[1]


# -- objectives --------------------------------------------------------------------------------------


def measured(pipeline: Pipeline) -> dict[str, Measure | None]:
    """Names that a formula may use: losses, measures of the validation rows, `MEASURE.GROUP`, costs."""
    task, quantiles = pipeline.target.type, pipeline.target.quantiles
    rows = [one for one in over_rows(task) if one.gate and (quantiles or not one.of_intervals)]
    return {
        **dict.fromkeys(LOSSES),
        **{one.name: one for one in rows},
        **{
            f"{one.name}.{group}": one
            for one in between_groups(task)
            if one.gate and task in one.gate
            for group in pipeline.audit.groups
        },
        **dict.fromkeys(COSTS),
    }


def _goal(pipeline: Pipeline) -> Iterator[Problem]:
    section, known = pipeline.tuner, formulas(pipeline.tuner)
    said, several = section.model_fields_set, "minimize" not in known
    trainer = section.space.get("trainer")
    weighed = sorted(CONSTRAINTS & trainer.keys()) if isinstance(trainer, dict) else []
    averaged = isinstance(section, OneObjective) and section.ensemble is not None
    pruned = isinstance(section, OneObjective) and not isinstance(section.pruner, NoPruner)
    yield from failing(
        (
            several and "minimize" in said,
            ("tuner", "minimize"),
            "`objectives` says what is minimised; leave one of the two out",
        ),
        (
            several and len(known) < 2,
            ("tuner", "objectives"),
            "name two objectives or more, as in {quality: 1 - auroc, speed: latency_us}",
        ),
        (
            several and "choose" not in said,
            ("tuner", "objectives"),
            "say which trial of the front is taken: `choose: {minimize: quality}`, or `{type: knee}`",
        ),
        (not several and "choose" in said, ("tuner", "choose"), "`choose` is for `objectives`; leave it out"),
        (
            several and pruned,
            ("tuner", "pruner"),
            "a pruner looks at one loss; leave it out, or minimise one formula",
        ),
        (
            several and averaged,
            ("tuner", "ensemble"),
            "members are ranked by one formula; leave it out, or minimise one",
        ),
        (
            pruned and weighed,
            ("tuner", "pruner"),
            f"the losses that it compares depend on `{'`, `'.join(weighed)}`: search that, or prune",
        ),
    )
    for name, text in known.items():
        yield from _formula(text, ("tuner", *(("objectives",) if several else ()), name), measured(pipeline))
    if several and isinstance(section, Objectives) and isinstance(section.choose, Limits):
        yield from _limits(section.choose, known)


def _limits(choose: Limits, known: Mapping[str, str]) -> Iterator[Problem]:
    at: Path = ("tuner", "choose")
    for place, name in (
        ((*at, "minimize"), choose.minimize),
        *(((*at, "at_most", name), name) for name in choose.at_most),
    ):
        yield from failing((name not in known, place, f"no objective `{name}`{nearest(name, known)}"))


def _formula(text: str, at: Path, known: Mapping[str, Measure | None]) -> Iterator[Problem]:
    formula = parse(text)
    strange = [name for name in formula.names if name not in known]
    for name in strange:
        yield Problem(at, f"`{name}` is not measured{nearest(name, known)}")
    if strange:
        return
    higher = [name for name in formula.names if (one := known[name]) and one.higher_is_better]
    best = {name: 1.0 if name in higher else 0.0 for name in formula.names}
    worst = {name: 1 - value for name, value in best.items()}
    hint = f"; `{higher[0]}` is better when higher, write `1 - {higher[0]}`" if higher else ""
    yield from failing(
        (not formula.names, at, f"names no measure{nearest('', known)}"),
        (
            formula.names and formula(best) >= formula(worst),
            at,
            f"is not lower for a perfect model than for the worst{hint}",
        ),
    )


# -- space -------------------------------------------------------------------------------------------


def search_space(pipeline: Pipeline) -> tuple[Space, list[Problem]]:
    """The space that a study of the pipeline searches, with what is wrong in `tuner.space`; without one
    the default families that can do what the file asks.
    """
    said = pipeline.tuner.space
    found = _said(pipeline, said) if said else _default(pipeline)
    families, problems = found
    trainer = {"trainer"} & pipeline.model_fields_set
    space = Space(Types("model.type", families), said=frozenset(trainer))
    if not problems and not (families and any(True for _ in space.asked(dict(_end(space, 0))))):
        none = "nothing is left to choose" if families else "no family of the default space does what it asks"
        problems = [Problem(_AT, f"{none}; name families, or values to try, as in {{model: [mlp, linear]}}")]
    return space, problems


def _said(pipeline: Pipeline, said: Mapping[str, JsonValue]) -> tuple[dict[str, Keys], list[Problem]]:
    reader = Reader(pipeline)
    sections: dict[str, Mapping[str, JsonValue]] = {}
    for key, value in said.items():
        if key not in _SECTIONS:
            reader.problems.append(Problem((*_AT, key), f"no section `{key}`{nearest(key, _SECTIONS)}"))
        elif not isinstance(value, dict) and (key != "model" or types_of(value) is None):
            told = "name families" if key == "model" else "write its keys, each with the values to try"
            reader.problems.append(Problem((*_AT, key), told))
        elif isinstance(value, dict):
            sections[key] = value
    kinds = types_of(said["model"]) if "model" in said else {kind: {} for kind in _unnamed(pipeline)}
    families = {}
    for kind, keys in (kinds or {}).items():
        if kind in FAMILIES:
            families[kind] = reader.family(kind, {**sections, "model": keys}, _AT)
        else:
            told = f"no family `{kind}` to search{nearest(kind, FAMILIES)}"
            reader.problems.append(Problem((*_AT, "model", kind), told))
    if families and not reader.problems:
        reader.problems += _strangers(sections.get("trainer", {}), families)
    if not reader.problems:
        reader.problems += [each for kind in families for each in _clashes(pipeline, kind, families[kind])]
    return families, list(dict.fromkeys(reader.problems))


def passed_over(pipeline: Pipeline) -> dict[str, str]:
    """Reasons why a family of the default space is not searched, by its type; none where the file says
    which are.
    """
    said = pipeline.tuner.space or {}
    own = "model" in pipeline.model_fields_set and pipeline.model.type in FAMILIES
    return {} if "model" in said or (said and own) else _able(pipeline)[1]


def _default(pipeline: Pipeline) -> tuple[dict[str, Keys], list[Problem]]:
    return _able(pipeline)[0], []


def _able(pipeline: Pipeline) -> tuple[dict[str, Keys], dict[str, str]]:
    """Families of the default space that can do what the file asks, and why the others cannot."""
    families, passed = {}, {}
    for kind in _usual(pipeline):
        spec, reader = FAMILIES[kind], Reader(pipeline)
        trainer = {**spec.searched.get("trainer", {})}
        if "fairness" in spec.trainer_keys and pipeline.trainer.fairness and _compares_groups(pipeline):
            trainer["fairness"] = {"strength": _STRENGTH}
        keys = reader.family(kind, {**spec.searched, "trainer": trainer}, _AT)
        if wrong := [*reader.problems] or [*_clashes(pipeline, kind, keys)]:
            passed[kind] = wrong[0].message
        else:
            families[kind] = keys
    return families, passed


def _unnamed(pipeline: Pipeline) -> list[str]:
    """Families of a space that names none: the file's own, else those of the default space."""
    own = pipeline.model.type
    return [own] if "model" in pipeline.model_fields_set and own in FAMILIES else [*_default(pipeline)[0]]


def _usual(pipeline: Pipeline) -> list[str]:
    """Families of the default space: the file's own, and those that are usual."""
    own = [pipeline.model.type] if "model" in pipeline.model_fields_set else []
    usual = [*own, *(kind for kind, spec in FAMILIES.items() if spec.usual)]
    return [kind for kind in dict.fromkeys(usual) if kind in FAMILIES]


def _compares_groups(pipeline: Pipeline) -> bool:
    known = measured(pipeline)
    names = [name for text in formulas(pipeline.tuner).values() for name in parse(text).names]
    return any((one := known.get(name)) is not None and one.between_groups for name in names)


def _strangers(trainer: Mapping[str, JsonValue], families: Mapping[str, Keys]) -> Iterator[Problem]:
    known = frozenset[str]().union(*(FAMILIES[kind].trainer_keys for kind in families))
    for key in trainer:
        if key in Trainer.model_fields and key not in known:
            told = f"no family of the space is trained by `{key}`{nearest(key, sorted(known))}"
            yield Problem((*_AT, "trainer", key), told)


def _clashes(pipeline: Pipeline, kind: str, keys: Keys) -> Iterator[Problem]:
    """Problems that the file would have with the family, at both ends of its space."""
    space = Space(Types("model.type", {kind: keys}))
    for end in (0, -1):
        made = space.families.value(dict(_end(space, end)))
        try:
            model, trainer = (
                FAMILIES[kind].model_validate(made["model"]),
                Trainer.model_validate(made["trainer"]),
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place, said = ".".join(map(str, first["loc"])), first["msg"]
            yield Problem((*_AT, "model", kind), f"`{place}`: {said[0].lower()}{said[1:]}")
            continue
        changed = pipeline.model_copy(update={"model": model, "trainer": trainer})
        for problem in (*features(changed), *training(changed)):
            place = ".".join(map(str, problem.path))
            yield Problem((*_AT, "model", kind), f"`{place}` of the file: {problem.message}")


def _end(space: Space, end: int) -> Iterator[tuple[str, JsonValue]]:
    """Choices at one end of every range: its first value or (-1) its last."""
    choices: dict[str, JsonValue] = {}
    for parameter in space.asked(choices):
        choices[parameter.name] = parameter.domain.ends[end]
        yield parameter.name, choices[parameter.name]
