"""What a pipeline with published events may change, and what it may not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.load import place, read
from penstock.contracts.pipeline import Json, Pipeline
from penstock_model_registry.compatibility import incompatible

TEXT = """\
version: 1
pipeline: loans
entities:
  applicant: {key: applicant_id}
  branch: {key: branch_id}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: at
    partitions: 2
    fields:
      income: {type: number, unit: USD/month, range: [0, 100]}
      purpose: {type: category, values: [home, car], max_length: 20}
      note: {type: text, personal: true}
      age: {type: number, protected: true}
  outcomes:
    entity: applicant
    id: outcome_id
    timestamp: at
    fields:
      defaulted: {type: boolean}
      grade: {type: category}
targets:
  default: {from: outcomes.defaulted, type: binary}
audit:
  gates: [{metric: auroc, at_least: 0.7}]
"""
OLD = read(TEXT)
ALL = frozenset(OLD.sources)


def changed(old: str, new: str) -> Pipeline:
    assert TEXT.count(old) >= 1, old
    return read(TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("{key: applicant_id}", "{key: person_id}", "entities.applicant.key", "was `applicant_id`"),
        ("id: application_id", "id: event_id", "sources.applications.id", "finds repeated events"),
        (
            "timestamp: at\n    partitions",
            "timestamp: then\n    partitions",
            "sources.applications.timestamp",
            "orders events",
        ),
        ("partitions: 2", "partitions: 1", "sources.applications.partitions", "cannot lower"),
        (
            "{type: number, unit: USD/month, range: [0, 100]}",
            "{type: category}",
            "sources.applications.fields.income.type",
            "was number",
        ),
        ("USD/month", "EUR/month", "sources.applications.fields.income.unit", "the unit was USD/month"),
        ("unit: USD/month, ", "", "sources.applications.fields.income", "the unit was USD/month"),
        (
            "range: [0, 100]",
            "range: [0, 99]",
            "sources.applications.fields.income.range",
            "may only widen; it was [0, 100]",
        ),
        (
            "age: {type: number,",
            "age: {type: number, range: [0, 9],",
            "sources.applications.fields.age.range",
            "it was open",
        ),
        ("[home, car]", "[home]", "sources.applications.fields.purpose.values", "missing: `car`"),
        (
            "grade: {type: category}",
            "grade: {type: category, values: [a]}",
            "sources.outcomes.fields.grade.values",
            "any value",
        ),
        ("max_length: 20", "max_length: 19", "sources.applications.fields.purpose.max_length", "it was 20"),
        (
            "type: boolean}",
            "type: boolean, required: true}",
            "sources.outcomes.fields.defaulted.required",
            "was optional",
        ),
        ("      grade: {type: category}\n", "", "sources.outcomes.fields", "`grade` is missing"),
        (
            "      grade:",
            "      more: {type: text, required: true}\n      grade:",
            "sources.outcomes.fields.more.required",
            "lack this new",
        ),
        ("personal: true", "personal: false", "sources.applications.fields.note.personal", "stay so"),
        (
            "defaulted, type: binary}",
            "grade, type: binary, positive: x}",
            "targets.default.from",
            "was outcomes.defaulted",
        ),
        ("type: binary}", "type: binary, positive: false}", "targets.default.positive", "was unset"),
    ],
)
def test_an_incompatible_change_is_refused_with_its_place_and_reason(
    old: str, new: str, path: str, said: str
) -> None:
    text = TEXT.replace(old, new)
    problems = place(text, "p.yaml", incompatible(OLD, read(text), ALL))
    assert path in [problem.key for problem in problems]
    problem = next(problem for problem in problems if problem.key == path)
    assert said in problem.message
    assert problem.line > 1


def test_events_that_are_published_stay_readable() -> None:
    class Csv(Json):
        type: Any = "csv"

    source = OLD.sources["applications"].model_copy(update={"format": Csv()})
    new = OLD.model_copy(update={"sources": {**OLD.sources, "applications": source}})
    (problem,) = incompatible(OLD, new, ALL)
    assert problem.message == "was `json`, as published events are written; declare another source"
    assert incompatible(OLD, new, frozenset({"outcomes"})) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("range: [0, 100]", "range: [-1, 1000]"),
        (", range: [0, 100]", ""),
        ("[home, car]", "[home, car, other]"),
        ("values: [home, car], ", ""),
        ("max_length: 20", "max_length: 200"),
        ("partitions: 2", "partitions: 4"),
        ("      grade:", "      more: {type: number}\n      grade:"),
        ("age: {type: number, protected: true}", "age: {type: number, protected: true, personal: true}"),
        ("at_least: 0.7", "at_least: 0.8"),
        ("audit:", "trainer: {epochs: 3, fairness: null}\naudit:"),
        ("audit:", "features:\n  income: {from: applications.income}\naudit:"),
        (
            "targets:",
            (
                "  more:\n    entity: applicant\n    id: i\n    timestamp: t\n    fields: {x: {type:"
                " number}}\ntargets:"
            ),
        ),
    ],
)
def test_a_compatible_change_is_not(old: str, new: str) -> None:
    assert incompatible(OLD, changed(old, new), ALL) == []


def test_a_source_with_data_cannot_be_left_out_and_one_without_can() -> None:
    without = read(
        TEXT[: TEXT.index("  applications:")]
        + TEXT[TEXT.index("  outcomes:") :].replace("grade: {type: category}", "grade: {type: category}")
    )
    assert "`applications` holds data" in incompatible(OLD, without, ALL)[0].message
    assert incompatible(OLD, without, {"outcomes"}) == []


def test_the_first_entity_stays() -> None:
    swapped = TEXT.replace("  applicant: {key: applicant_id}\n", "").replace(
        "branch_id}", "branch_id}\n  applicant: {key: applicant_id}"
    )
    new = read(swapped.replace("entity: applicant", "entity: branch"))
    assert "the first entity was `applicant`" in incompatible(OLD, new, ALL)[0].message


def test_without_data_everything_may_change_but_the_partitions() -> None:
    new = changed("{type: number, unit: USD/month, range: [0, 100]}", "{type: text}")
    assert incompatible(OLD, new, frozenset()) == []
    assert incompatible(OLD, changed("{key: applicant_id}", "{key: person_id}"), frozenset()) == []
    assert len(incompatible(OLD, changed("partitions: 2", "partitions: 1"), frozenset())) == 1


def field(**options: Any) -> Pipeline:
    data = OLD.model_dump(mode="json", by_alias=True)
    data["sources"]["applications"]["fields"]["income"] |= options
    return Pipeline.model_validate(data)


RANGES = st.none() | st.tuples(st.integers(-5, 5), st.integers(-5, 5)).map(
    lambda pair: (float(min(pair)), float(max(pair)))
)


@given(before=RANGES, after=RANGES, value=st.floats(-6, 6))
def test_what_was_accepted_is_accepted_after_every_change_that_passes(
    before: tuple[float, float] | None, after: tuple[float, float] | None, value: float
) -> None:
    def accepts(bounds: tuple[float, float] | None) -> bool:
        return bounds is None or bounds[0] <= value <= bounds[1]

    if not incompatible(field(range=before), field(range=after), ALL) and accepts(before):
        assert accepts(after)


def test_a_pipeline_is_compatible_with_itself() -> None:
    assert incompatible(OLD, OLD, ALL) == []
