"""Doubts about a file without a mistake: each is one that somebody had to find out too late."""

import pytest

from penstock.contracts.load import read
from penstock.contracts.rules import doubts

FILE = """\
version: 1
pipeline: loans
entities: {person: {key: person_id}}
sources:
  events:
    entity: person
    id: event_id
    timestamp: at
    fields:
      income: {type: number}
      sex: {type: category, protected: true}
      COPY: {type: boolean}
      defaulted: {type: boolean}
features:
  income: {from: events.income}
targets:
  default: {from: events.defaulted, type: binary}
audit:
  groups: {sex: {}}
  gates: [{metric: auroc, at_least: 0.7}]
"""


def told(text: str) -> list[tuple[str, str]]:
    return [(".".join(map(str, doubt.path)), doubt.message) for doubt in doubts(read(text))]


def test_a_good_file_raises_none() -> None:
    assert told(FILE.replace("COPY", "debts")) == []


def test_a_protected_field_as_an_input() -> None:
    ((path, said),) = told(FILE.replace("  income: {from", "  sex: {from: events.sex}\n  income: {from"))
    assert (path, "`sex` is protected and an input" in said) == ("features.sex", True)


@pytest.mark.parametrize("made", ["$row_content", "$row_number"])
def test_an_id_that_tells_what_may_not_leave_a_site(made: str) -> None:
    columns = f"timestamp: at\n    columns: {{event_id: {made}}}"
    file = FILE.replace("COPY", "debts").replace("timestamp: at", columns)
    assert told(file) == []
    assert told(file + "edge: {}\n") == []
    ((path, said),) = told(file + "edge: {may_leave: [income, defaulted]}\n")
    assert (path, "find out `debts` by trying" in said) == ("sources.events.columns.event_id", True)


@pytest.mark.parametrize("name", ["is_default", "default_flag", "defaulted_at", "label", "wasDefaulted"])
def test_a_target_by_another_name(name: str) -> None:
    ((path, said),) = told(
        FILE.replace("COPY", name).replace("features:", f"features:\n  x: {{from: events.{name}}}")
    )
    assert (path, "looks like the target `defaulted`" in said) == ("features.x", True)


def test_no_gate() -> None:
    without = FILE.replace("gates: [{metric: auroc, at_least: 0.7}]", "gates: []")
    ((path, said),) = told(without)
    assert (path, "so none may serve" in said, "without_gates" in said) == ("audit", True, True)
    ((path, said),) = told(without + "promotion: {without_gates: allowed}\n")
    assert (path, said.endswith("none is judged; add `gates`")) == ("audit", True)


@pytest.mark.parametrize(
    ("favourable", "metric", "meant"),
    [
        ("false", "demographic_parity_ratio", "nonselection_ratio"),
        ("true", "nonselection_ratio", "demographic_parity_ratio"),
        ("false", "nonselection_ratio", ""),
        ("true", "demographic_parity_ratio", ""),
        ("", "demographic_parity_ratio", ""),
    ],
)
def test_a_ratio_that_is_no_four_fifths_rule(favourable: str, metric: str, meant: str) -> None:
    good = f", favourable: {favourable}" if favourable else ""
    text = FILE.replace("COPY", "debts").replace("type: binary", f"type: binary{good}")
    gate = f"{{metric: {metric}, by: sex, at_least: 0.8}}"
    found = told(text.replace("gates: [", f"gates: [{gate}, "))
    assert [path for path, _ in found] == (["audit.gates.0.metric"] if meant else [])
    assert all(f"how often they do: `{meant}`" in said for _, said in found)
