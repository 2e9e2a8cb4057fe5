"""Optuna's studies, each made in memory from the trials' rows and thrown away: it stores nothing.

An option stands for its place in the list, as Optuna takes no lists for values.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import JsonValue

from penstock.contracts.space import Options, Parameter, Space
from penstock_tuner.search.tried import Tried

_STATES = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggested(space: Space, tried: Sequence[Tried], objectives: int, seed: int) -> dict[str, JsonValue]:
    """Choices of Optuna's TPE sampler after these trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(seed=seed, multivariate=True, group=True)
    trial = study(space, tried, objectives, sampler).ask()
    choices: dict[str, JsonValue] = {}
    for parameter in space.asked(choices):
        choices[parameter.name] = _suggest(trial, parameter)
    return choices


def study(
    space: Space, tried: Sequence[Tried], objectives: int, sampler: BaseSampler | None = None
) -> optuna.Study:
    """The study of these trials, which must lie in the space and have choices."""
    made = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    # Optuna's samplers take no trial as pruned where there are several objectives.
    known = [one for one in tried if one.state != "pruned" or objectives == 1]
    made.add_trials([_trial(space, one) for one in known])
    return made


def _trial(space: Space, one: Tried) -> FrozenTrial:
    parameters = [*space.asked(one.choices)]
    return create_trial(
        state=_STATES[one.state],
        values=one.values if one.state == "complete" else None,
        params={each.name: _inner(each, one.choices[each.name]) for each in parameters},
        distributions={each.name: _distribution(each) for each in parameters},
        intermediate_values=dict(enumerate(one.rungs)),
    )


def _suggest(trial: Trial, parameter: Parameter) -> JsonValue:
    name, domain = parameter.name, parameter.domain
    if isinstance(domain, Options):
        return domain.values[trial.suggest_categorical(name, range(len(domain.values)))]
    if domain.whole:
        return trial.suggest_int(name, round(domain.low), round(domain.high), log=domain.log)
    return domain.number(trial.suggest_float(name, domain.low, domain.high, log=domain.log))


def _distribution(parameter: Parameter) -> BaseDistribution:
    domain = parameter.domain
    if isinstance(domain, Options):
        return CategoricalDistribution(range(len(domain.values)))
    if domain.whole:
        return IntDistribution(round(domain.low), round(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _inner(parameter: Parameter, value: JsonValue) -> JsonValue:
    if isinstance(parameter.domain, Options):
        return [json.dumps(one) for one in parameter.domain.values].index(json.dumps(value))
    return value
