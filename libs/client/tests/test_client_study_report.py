"""The page of a study, as one reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from penstock.client.cli.study_report.drawing import Scale
from penstock.client.cli.study_report.gates import gate_limits
from penstock.client.cli.study_report.page import render
from penstock.contracts.pipeline import Gate
from penstock.tuner.v1 import tuner_pb2 as pb

COMPLETE, FAILED, PRUNED = pb.Trial.STATE_COMPLETE, pb.Trial.STATE_FAILED, pb.Trial.STATE_PRUNED
VOID = ("meta", "!doctype")


class Page(HTMLParser):
    """Headings, texts, and the count of marks; fails where an element is not closed."""

    def __init__(self, found: pb.Study, gates: Sequence[Gate] = ()) -> None:
        super().__init__()
        self.source = render(found, gates)
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open and self._open[-1] in ("h2", "h3"):
            self.headings.append(data)

    def marks(self, kind: str) -> int:
        """Marks of the kind in the plots; those that explain them are left out."""
        return sum(
            attributes.get("class") == kind and attributes.get("transform") != "translate(10.0 10.0)"
            for _, attributes in self.elements
        )

    @property
    def said(self) -> str:
        return " ".join(self.texts)


def trial(number: int, *values: float, state: int = COMPLETE, **fields: Any) -> pb.Trial:
    given = {"family": "mlp", "choices_json": json.dumps({"mlp.dropout": number / 10} if number else {})}
    return pb.Trial(number=number, state=state, values=values, **{**given, **fields})


def study(*trials: pb.Trial, **fields: Any) -> pb.Study:
    given = {"pipeline": "loans", "state": pb.Study.STATE_COMPLETED, "objectives": ["loss"]}
    return pb.Study(study_id="01S", trials=trials, **{**given, "conclusion": "so it is", **fields})


def test_the_page_says_what_came_of_it_first_and_shows_every_trial() -> None:
    metrics = {"train_loss": 0.25, "equalized_odds_difference.sex": 0.125, "selection_rate.sex": 0.7}
    found = study(
        trial(0, 3.0),
        trial(1, 2.0, metrics=metrics, seconds=4.5),
        trial(2, state=FAILED, failure="one class only"),
        trial(3, state=PRUNED),
        trial(4, 2.5, family="linear"),
        best=1,
        rule="the least loss",
        looks=15,
        trials_planned=5,
        importance={"mlp.dropout": 0.75, "model.type": 0.25},
        tuner_json='{"budget": {"patience": 9}}',
    )
    page = Page(found)
    sections = ["History", "Families side by side", "What mattered", "All trials"]
    assert page.headings == ["Trial 1 was chosen", *sections]
    for text in ("So it is.", "the trial with the least loss", "15, for the choice", "one class only", "75%"):
        assert text in page.texts
    assert "5 of 5 trials, 1 failed, 1 stopped early" in page.texts
    assert "equalized odds difference by sex" in page.texts
    assert "selection" not in page.said, "the study did not ask for it"
    below = [given["colspan"] for name, given in page.elements if given.get("class") == "words"]
    assert below == ["7"] * 5, "values stand below their trial, as wide as the table"
    counts = {kind: page.marks(kind) for kind in ("trial", "own", "chosen", "failed", "pruned", "own level")}
    assert counts == {"trial": 1, "own": 1, "chosen": 1, "failed": 1, "pruned": 1, "own level": 1}


def test_names_from_outside_stay_text() -> None:
    evil = "</title></style><script>alert(1)</script>\"'&\u202e\0"
    found = study(
        *(
            trial(n, float(n), family=evil, choices_json=json.dumps({evil: evil * n}), metrics={evil: 1.0})
            for n in range(3)
        ),
        trial(3, state=FAILED, failure=evil),
        pipeline=evil,
        conclusion=evil,
        requested_by=evil,
        objectives=[evil],
        rule=evil,
        importance={evil: 1.0},
        tuner_json=json.dumps({"type": evil, "budget": {"memory": evil}}),
    )
    page = Page(found)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not re.search("[\0\u202e]", page.source)
    expected = "lang charset name content http-equiv class style scope colspan role aria-label aria-hidden"
    drawn = "viewbox d transform x y text-anchor"
    assert {name for _, given in page.elements for name in given} <= set(f"{expected} {drawn}".split())
    assert page.marks("thread") == 3, "the plots are drawn nevertheless"


@pytest.mark.parametrize(
    ("found", "headline", "said"),
    [
        (study(state=pb.Study.STATE_PREPARING), "Preparing", "No trial has begun."),
        (study(trial(0, 3.0), best=0), "Your own values stay", "So it is."),
        (
            study(
                trial(0, state=FAILED),
                state=pb.Study.STATE_FAILED,
                failure="none ended well",
                remedy="Mend it",
            ),
            "Failed",
            "None ended well. Mend it.",
        ),
    ],
)
def test_a_study_of_few_trials_has_a_page(found: pb.Study, headline: str, said: str) -> None:
    page = Page(found)
    assert page.headings[0] == headline
    assert said in page.texts
    assert "What was chosen" not in page.headings
    assert ("History" in page.headings) == any(one.values for one in found.trials)


def test_several_objectives_have_a_history_each_and_a_front_with_its_limit_and_the_gates() -> None:
    section = {
        "objectives": {"quality": "1 - auroc", "fairness": "equalized_odds_difference.sex"},
        "choose": {"minimize": "quality", "at_most": {"fairness": 0.1}},
    }
    gates = [
        Gate(metric="auroc", at_least=0.6),
        Gate(metric="equalized_odds_difference", by="sex", at_most=0.2),
        Gate(metric="equalized_odds_difference", by="age", at_most=0.3),
    ]
    places = [(0.5, 0.4), (0.2, 0.3), (0.3, 0.05), (0.4, 0.35)]
    found = study(
        *(trial(number, *values) for number, values in enumerate(places)),
        best=2,
        objectives=["quality", "fairness"],
        tuner_json=json.dumps(section),
    )
    assert gate_limits(found, gates) == {"quality": [0.4], "fairness": [0.2]}
    page = Page(found, gates)
    assert page.headings[1:3] == ["History", "Pareto front"]
    assert (page.marks("front"), page.marks("limit"), page.marks("gate")) == (1, 1, 2)
    assert page.marks("chosen") == 3
    assert "fairness against quality of 4 trials; 2 are on the Pareto front" in page.source


def test_a_value_far_above_the_others_lies_at_the_edge() -> None:
    page = Page(study(*(trial(number, 2.0 + number / 10) for number in range(8)), trial(8, 900.0), best=0))
    assert page.marks("beyond") == 1
    assert "loss 900" in page.said
    assert "left out: 1 far above the others" in page.texts


def test_trials_without_a_parameter_stand_at_the_foot_of_its_axis() -> None:
    chosen = [
        {"mlp.optimizer": "adam", "mlp.adam.beta": 0.9},
        {"mlp.optimizer": "sgd"},
        {"mlp.optimizer": "adam"},
    ]
    trials = [trial(n, float(n), choices_json=json.dumps(choices)) for n, choices in enumerate(chosen)]
    page = Page(study(*trials, best=0))
    assert {"adam", "sgd", "beta", "none"} <= set(page.texts)
    assert (page.marks("thread"), page.marks("thread best"), page.marks("upright")) == (2, 1, 3)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 5, [0, 1, 2, 3, 4, 5]), (0.117, 0.123, [0.118, 0.12, 0.122]), (-950, 950, [-500, 0, 500])],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low, high, 0.0, 1.0).ticks() == ticks
