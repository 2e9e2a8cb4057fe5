"""Values by name become one row of the version that is served; what does not fit says what would."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from penstock.contracts.errors import Invalid, NotFound
from penstock.feature_store.v1 import feature_store_pb2 as fs
from penstock.packages.format import open_package
from penstock.packages.keys import Keys
from penstock.packages.parts import Inputs, NumberProfile, Probes, Profile
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import Tensor
from penstock.serving.rows import Row, find_model, response_of, row_of
from penstock.serving.warnings import MOST, warnings_of
from penstock.testing import lending, packages
from penstock_inference.online import features_from_store

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def made(folder: Path, **parts: Any) -> Model:
    keys = Keys(folder / "keys")
    keys.ensure()
    digest = packages.write_package(folder / "package", **parts)
    promoted = packages.promotion(
        keys, packages.version(digest, keys), packages.verdict(keys, digest), generation=4
    )
    return Model(promoted, open_package(folder / "package"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return made(tmp_path_factory.mktemp("model"))


def test_what_is_not_given_is_missing(model: Model) -> None:
    assert row_of(model, {"income": 2500.0, "purpose": "car"}) == Row((2500.0,), ("car",))
    assert row_of(model, {"purpose": None}) == Row((None,), ("",))
    assert row_of(model, {"income": None}) == Row((None,), ("",))


def test_an_input_without_any_field_is_refused_with_what_there_is(model: Model) -> None:
    with pytest.raises(Invalid) as raised:
        row_of(model, {})
    assert str(raised.value) == "loans is given no input. Give some of: income, purpose"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"incom": 1.0}, "incom: loans has no feature 'incom'. Did you mean 'income'?"),
        ({"zzz": 1.0}, "zzz: loans has no feature 'zzz'. Features: income, purpose"),
        ({"defaulted": True}, "defaulted: this is what loans predicts. Leave it out"),
        ({"sex": "f"}, "sex: this is protected, and no input of loans. Leave it out"),
        ({"income": "much"}, "income: must be a number, this is a text: 'much'"),
        ({"income": True}, "income: must be a number, this is a boolean: True"),
        ({"purpose": 3.0}, "purpose: must be a text, this is a number: 3.0"),
    ],
)
def test_what_does_not_fit_says_what_would(
    model: Model, given: dict[str, float | str | bool], said: str
) -> None:
    with pytest.raises(Invalid) as raised:
        row_of(model, given)
    assert str(raised.value) == said


def test_a_mark_of_its_source_is_missing_and_is_named(tmp_path: Path) -> None:
    """As ingest reads it: in a field of any type, and whole."""
    pipeline = lending.pipeline()
    source = pipeline.sources["applications"].model_copy(update={"missing": ("?", "NA")})
    sources = {**pipeline.sources, "applications": source}
    model = made(tmp_path, pipeline=pipeline.model_copy(update={"sources": sources}))
    given = {"income": "?", "purpose": "NA"}
    row = row_of(model, given)
    assert row == Row((None,), ("",))
    assert warnings_of(model, row, given) == [
        "`income` (`?`) is missing, as in 1.7% of the training rows",
        "`purpose` (`NA`) is missing, which no training row was",
    ]
    with pytest.raises(Invalid, match="income: must be a number, this is a text: '-'"):
        row_of(model, {"income": "-"})
    assert row_of(model, {"purpose": "NA "}) == Row((None,), ("NA ",))


def test_an_unknown_pipeline(model: Model) -> None:
    assert find_model({"loans": model}, "loans") is model
    with pytest.raises(NotFound, match=r"Did you mean 'loans'\?"):
        find_model({"loans": model}, "loan")
    with pytest.raises(NotFound, match="Train and promote one first"):
        find_model({}, "loans")


def test_an_entitys_values_go_where_its_fields_stand(model: Model) -> None:
    assert list(model.references.values()) == ["applications.income", "applications.purpose"]
    found = fs.EntityFeatures(
        entity="a1",
        status=fs.EntityFeatures.STATUS_FOUND,
        values=[fs.Value(text="car"), fs.Value()],
        events={"applications": "e7"},
    )
    answer = fs.GetOnlineFeaturesResponse(
        fields=["applications.purpose", "applications.income"], entities=[found]
    )
    assert features_from_store(model, "a1", answer, NOW) == {"income": None, "purpose": "car"}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            fs.EntityFeatures.STATUS_NOT_FOUND,
            "loans has no applicant 'a1': the feature store has no event of it",
        ),
        (
            fs.EntityFeatures.STATUS_EXPIRED,
            "the newest event of applicant 'a1' is of 1997-03-01, 10866 days ago; `training.max_age`, 365d,"
            " lets nothing older answer",
        ),
    ],
)
def test_an_entity_without_features(
    model: Model, status: fs.EntityFeatures.Status.ValueType, why: str
) -> None:
    found = fs.EntityFeatures(entity="a1", status=status)
    found.time.FromDatetime(datetime(1997, 3, 1, tzinfo=UTC))
    answer = fs.GetOnlineFeaturesResponse(entities=[found])
    with pytest.raises(NotFound) as raised:
        features_from_store(model, "a1", answer, NOW)
    assert raised.value.message == why


def test_an_answer_gets_its_names_again(model: Model) -> None:
    answers = {"probabilities": Tensor((1, 2), [0.25, 0.75]), "decision": Tensor((1, 1), ["true"])}
    response = response_of(model, "p1", answers)
    assert dict(response.probabilities) == {"false": 0.25, "true": 0.75}
    assert (response.prediction, response.decision, response.digest, response.generation) == (
        "p1",
        "true",
        model.digest,
        4,
    )
    assert (response.positive, response.threshold, response.HasField("abstains")) == ("true", 0.5, False)
    assert response_of(model, "p1", {"value": Tensor((1, 1), [2.5])}).value == 2.5
    answers = {"value": Tensor((1, 1), [2.5]), "interval": Tensor((1, 2), [1.5, 4.0])}
    found = response_of(model, "p1", answers).interval
    assert (found.lower, found.upper) == (1.5, 4.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row((None,), ("",)), ["`income` is missing, as in 1.7% of", "`purpose` is missing, which no"]),
        (Row((1e9,), ("car",)), ["`income` 1e+09 lies outside of what training saw"]),
        (Row((2500.0,), ("boat",)), ["`purpose` `boat`: training saw it in no row"]),
        (Row((2500.0,), ("car",)), []),
    ],
)
def test_inputs_unlike_those_of_training_are_named(model: Model, row: Row, said: list[str]) -> None:
    found = warnings_of(model, row, {})
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def wide(folder: Path, columns: int, declared: Mapping[str, object] = MappingProxyType({})) -> Model:
    """A model of so many numbers `x0`, `x1`, …, each from 0 to 1 in training, the first never missing."""
    names = [f"x{n}" for n in range(columns)]
    fields: dict[str, Any] = {name: {"type": "number", **declared} for name in names}
    fields |= {"defaulted": {"type": "boolean"}}
    source = {"entity": "applicant", "id": "application_id", "timestamp": "at", "fields": fields}
    seen = {
        name: NumberProfile(rows=60, missing=int(name != "x0"), minimum=0.0, maximum=1.0) for name in names
    }
    outputs = {"probabilities": ((0.25, 0.75),), "decision": (("true",),)}
    return made(
        folder,
        pipeline=lending.pipeline(sources={"applications": source}, audit={}),
        signature=packages.model_signature(Inputs(numbers=tuple(names))),
        profile=Profile(features=seen, probes=Probes(numbers=((0.5,) * columns,), outputs=outputs)),
    )


def test_what_is_wrong_comes_before_what_is_missing(tmp_path: Path) -> None:
    model = wide(tmp_path, 27)
    given = {"x26": 7.0, "x25": 0.5}
    assert warnings_of(model, row_of(model, given), given) == [
        "`x26` 7 lies outside of what training saw, 0 to 1",
        f"25 of 27 inputs are missing: {', '.join(f'`x{n}`' for n in range(20))} and 5 more;"
        " training always had 1 of these",
    ]


def test_warnings_are_bounded_and_still_tell_of_missing_inputs(tmp_path: Path) -> None:
    model = wide(tmp_path, 30)
    given = {f"x{n}": 7.0 for n in range(25)}
    found = warnings_of(model, row_of(model, given), given)
    assert len(found) == MOST
    assert found[-1] == "5 of 30 inputs are missing: `x25`, `x26`, `x27`, `x28`, `x29`"


@pytest.mark.parametrize(
    ("declared", "became"),
    [({}, "reject such an event"), ({"on_violation": "set_missing"}, "read it as missing")],
)
def test_a_value_that_no_event_may_have_is_said_to_be_one(
    tmp_path: Path, declared: dict[str, str], became: str
) -> None:
    model = wide(tmp_path, 1, {"range": [0, 10_000]} | declared)
    given = {"x0": -99999.0}
    assert warnings_of(model, row_of(model, given), given) == [
        f"`x0` -99999 breaks its range, 0 to 10000: ingest would {became}",
        "`x0` -99999 lies outside of what training saw, 0 to 1",
    ]


def test_an_answer_says_where_its_decision_changes(tmp_path: Path) -> None:
    sure = lending.pipeline(decision={"abstain": [0.25, 0.5]})
    model = made(tmp_path, pipeline=sure, metrics={"auroc": 0.9, "threshold": 0.125})
    response = response_of(model, "p1", {"probabilities": Tensor((1, 2), [0.875, 0.125])})
    assert (response.positive, response.threshold) == ("true", 0.125)
    assert (response.abstains.lower, response.abstains.upper) == (0.25, 0.5)
