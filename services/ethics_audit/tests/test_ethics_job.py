"""The job on a real small package: what it finds, what it writes, and what it will not touch."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import Artifact, ModelVersion, StudyReference
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext
from penstock.testing.packages import NOW
from penstock_ethics_audit.result import Result

World = Any  # the fixture's class lives in conftest.py


def audited(world: World, version: ModelVersion, **order: Any) -> Mapping[str, Any]:
    payload = {
        "audit_id": "A1",
        "version": version.model_dump(mode="json"),
        "started_at": NOW.isoformat(),
        "artifacts": world.artifacts.root,
        "keys": str(world.keys.directory),
    } | order
    from penstock_ethics_audit.job import run  # a second of every worker, were it imported above

    return run(JobContext("A1", "audit", payload, 1, None, io.StringIO()))


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thirds of an audit, for tests of what stands between them."""
    from penstock_ethics_audit.report import page

    monkeypatch.setattr(page, "_grouping_pictures", lambda result, grouping: iter(()))
    monkeypatch.setattr(page, "_curves", lambda result, by, areas: iter(()))


def read(world: World, found: Mapping[str, Any], name: str) -> bytes:
    artifacts: Artifacts = world.artifacts
    return artifacts.read(Artifact.model_validate(found[name]))


def arrays(world: World, found: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(read(world, found, "scores")), allow_pickle=False) as scores:
        return dict(scores)


@pytest.mark.usefixtures("artifacts_root")
def test_a_fair_model_passes_and_the_result_tells_its_lineage(world: World) -> None:
    study = StudyReference(
        study_id="01S", trial=4, weights="sha256:" + "a" * 64, trials=9, looks=54, rule="the least loss"
    )
    version = world.version(rows=4000, study=study)
    found = audited(world, version)
    assert (found["verdict"], [gate["verdict"] for gate in found["gates"]]) == ("pass", ["pass", "pass"])
    result = Result.model_validate_json(read(world, found, "result"))
    assert result.digest == version.digest
    assert result.version.training_set.fingerprint == version.training_set.fingerprint
    assert (result.report_digest, result.scores_digest) == (
        found["report"]["digest"],
        found["scores"]["digest"],
    )
    assert result.study == study
    assert result.findings.labels.keys() == {"false", "true"}
    assert result.cost is not None
    assert result.cost.processor_s > 0
    page = " ".join(read(world, found, "report").decode().split())
    assert re.search(r"<dt>Cost of the audit</dt><dd>[\d,.]+ processor seconds, 0\.0 GPU seconds, ", page)
    assert "By 2 processes, 41,000 rows a second. A step, which looks at some rows and changes" in page
    assert "took 2.30 ms. Of the time 35% went into computing, 61% into fetching rows, 4% into" in page
    assert "A step was under way on the GPU 30% of the time, with 2.3 GB of its memory at most." in page
    assert "trial 4 of 9, chosen by the least loss after 54 looks at the validation rows" in page
    assert [grouping.by for grouping in result.findings.groupings] == ["age", "sex"]
    assert [group.group for group in result.findings.groupings[0].groups] == ["<40", ">=40"]
    assert result.importance is not None
    assert result.importance.rows == 1000
    number, word = (result.importance.features[name] for name in ("x", "word"))
    assert number is not None
    assert word is not None
    assert number.lower > word.upper > 0, "what the score rests on, and what little is on the word"
    scores = arrays(world, found)  # pairs rows without naming anybody
    assert scores.keys() == {"row", "entity", "label", "probability", "decision"}
    assert len(set(scores["row"])) == len(scores["entity"]) == 4000
    assert re.fullmatch(rb"[0-9a-f]{32}", scores["row"][0])
    assert (scores["decision"] == (scores["probability"] > 0.5)).all()


@pytest.mark.slow
def test_it_starts_over_with_the_same_numbers(world: World) -> None:
    version = world.version(gap=0.9)
    costs = {"cost": None, "report_digest": ""}  # what it costs differs, and the report says it
    results = []
    for _ in range(2):
        found = audited(world, version)
        assert found["verdict"] == "fail"
        results.append(Result.model_validate_json(read(world, found, "result")).model_copy(update=costs))
    once, again = (result.model_dump_json() for result in results)
    assert once == again
    assert results[0].scores_digest


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_an_equal_model_gets_no_other_draw_on_the_same_rows(world: World) -> None:
    gates = [{"metric": "equalized_odds_difference", "by": "sex", "at_most": 0.1}]
    once, again = (world.version(rows=300, gates=gates, card=card) for card in ("# loans\n", "# again\n"))
    assert once.digest != again.digest
    assert audited(world, once)["gates"] == audited(world, again)["gates"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_several_classes_and_numbers(world: World, task: str) -> None:
    gates = {
        "multiclass": [{"metric": "accuracy", "at_least": 0.5}],
        "regression": [{"metric": "rmse", "at_most": 0.7}],
    }[task]
    found = audited(world, world.version(task, gates=gates))
    assert found["verdict"] == "pass"
    scores = arrays(world, found)
    said = {"multiclass": {"probabilities", "decision"}, "regression": {"value"}}[task]
    assert scores.keys() == {"row", "entity", "label"} | said
    if task == "multiclass":
        assert np.allclose(scores["probabilities"].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "task",
    [
        "binary",
        pytest.param("multiclass", marks=pytest.mark.slow),
        pytest.param("regression", marks=pytest.mark.slow),
    ],
)
def test_the_report_needs_nothing_runs_nothing_and_names_nobody(world: World, task: str) -> None:
    gates = {
        "multiclass": [{"metric": "accuracy", "at_least": 0.99}],
        "regression": [{"metric": "rmse", "at_most": 0.1}],
    }.get(task)
    found = audited(world, world.version(task, gap=0.9, gates=gates))
    html, text = read(world, found, "report").decode(), read(world, found, "result").decode()
    assert "Did not pass" in html
    assert not re.search(r"(https?:)?//[a-z0-9]", html)
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|\son[a-z]+=|url\((?!#)", html)
    assert "secret-" not in html + text
    assert html.count('role="img"') == html.count("<svg")
    assert not re.search(r'aria-label=""', html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


@pytest.mark.usefixtures("artifacts_root")
def test_a_tampered_package_is_never_scored(world: World) -> None:
    version = world.version()
    flipped = bytearray(world.artifacts.read(version.package))
    flipped[len(flipped) // 2] ^= 1
    world.artifacts.replace(version.package, bytes(flipped))
    with pytest.raises(Tampered):
        audited(world, version)


def test_a_package_signed_by_nobody_we_trust_is_never_scored(world: World) -> None:
    version = world.version()
    world.keys.rotate("registry", revoke=True)
    with pytest.raises(Tampered, match="not in the trust store"):
        audited(world, version)


@pytest.mark.usefixtures("artifacts_root")
def test_a_split_that_is_not_the_one_named_is_not_opened(world: World) -> None:
    version = world.version()
    world.split("binary", 1500, 0.0, seed=2)
    with pytest.raises(Tampered, match="audit split has changed"):
        audited(world, version)


def test_an_event_cannot_name_another_split_than_the_signed_package(world: World) -> None:
    version = world.version()
    other = version.training_set.model_copy(update={"fingerprint": "sha256:" + "9" * 64})
    with pytest.raises(Tampered, match="training set"):
        audited(world, version.model_copy(update={"training_set": other}))


def test_a_run_cannot_soften_the_gates(world: World) -> None:
    asked = world.pipeline("binary", [{"metric": "auroc", "at_least": 0.99}]).audit
    with pytest.raises(Invalid, match="another audit") as refused:
        audited(world, world.version(), asked=asked.model_dump(mode="json"))
    assert "train again" in (refused.value.remedy or "")


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_without_gates_the_report_is_grey_and_says_that_nothing_was_judged(world: World) -> None:
    found = audited(world, world.version(rows=300, gates=[]))
    assert found["verdict"] == "pass", "on the wire as ever"
    page = read(world, found, "report").decode()
    assert '<section class="verdict not-judged"' in page
    assert "Not judged" in page
    assert "promotion: {without_gates: allowed}" in page
    assert "✓" not in page


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_what_is_bad_and_gated_by_nothing_stands_at_the_top(world: World) -> None:
    gates = [{"metric": "auroc", "at_least": 0.6}]
    page = read(world, audited(world, world.version(rows=3000, gap=1.0, gates=gates)), "report").decode()
    top = page[: page.index('id="why"')]
    assert "Passed" in top
    assert "Measured, and judged by no gate" in top
    assert "Equalized odds difference by sex" in top
    assert re.search(r"(true|false) positive rate of `\w+ = true`, \d+% for [fm], \d+% for [fm]", top)


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_simpler_models_of_the_package_stand_beside_the_model(world: World) -> None:
    """The one that is the model itself is as good; what does not run is left out."""
    version = world.version(rows=600, baselines={"linear": None, "boosted_trees": b"no graph"})
    found = audited(world, version)
    [linear] = Result.model_validate_json(read(world, found, "result")).baselines
    assert linear.name == "linear"
    assert linear.worse_by is not None
    assert (linear.worse_by.estimate, linear.metric) == (0, "auroc")
    page = read(world, found, "report").decode()
    assert "Beside simpler models" in page
    assert "A linear model" in page


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_the_report_says_what_chance_alone_shows_and_that_training_had_not_ended(world: World) -> None:
    page = read(world, audited(world, world.version(rows=300)), "report").decode()
    assert re.search(r"A perfectly fair model would show an upper bound of 0\.\d\d here", page)
    assert re.search(r"this limit asks for about [\d,]+ audit rows like these", page)
    assert "still falling" not in page, "three of thirty epochs: it was stopped"


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_audit_rows_that_stand_in_the_training_part_too_are_said_first(world: World) -> None:
    found = audited(world, world.version(rows=600, copied=True))
    result = Result.model_validate_json(read(world, found, "result"))
    assert result.twins is not None
    assert (result.twins.rows, result.twins.copies) == (600, True)
    [note] = result.notes
    assert note.startswith("600 of 600 audit rows stand in the training part too")
    page = read(world, found, "report").decode()
    assert note in page[: page.index('id="why"')]


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_a_training_part_that_was_rewritten_since_is_not_compared(world: World) -> None:
    version = world.version(rows=300)
    assert Result.model_validate_json(read(world, audited(world, version), "result")).notes == ()
    world.split("binary", 299, 0.0, part="train")
    found = audited(world, version)
    result = Result.model_validate_json(read(world, found, "result"))
    assert (result.twins, result.not_counted) == (
        None,
        "the training part is no longer the one that was trained on",
    )
    assert result.not_counted in read(world, found, "report").decode()


@pytest.mark.usefixtures("artifacts_root", "without_pictures")
def test_rows_are_known_again_whatever_else_was_published_corrected_or_erased(world: World) -> None:
    rule = {"metric": "auroc", "by": None, "bound": "at_least", "limit": 0.7}
    rules = [rule | {"judge": "lower_bound", "on_fail": "block"}]
    gates = [{"metric": "auroc", "at_least": 0.6}]
    first = audited(world, world.version(rows=300, gates=gates))["scores"]
    gone = first | {"uri": first["uri"].replace("scores.npz", "gone.npz")}
    elsewhere = first | {"uri": "file:///a-store-that-nobody-asks-any-more/scores.npz"}
    earlier = [{"scores": scores, "rules": rules} for scores in (gone, elsewhere, first)]
    found = audited(world, world.version(rows=301, gates=gates), audit_id="A2", earlier=earlier)
    result = Result.model_validate_json(read(world, found, "result"))
    [note] = result.notes
    assert note == (
        "2nd look at these audit rows: an audit judged models by 300 of the 301 before."
        " auroc at_least was 0.7 in look 1, now 0.6: looser."
        " By which rows 2 older audits judged is not known any more."
    )
    assert (result.looks.earlier, note in read(world, found, "report").decode()) == (1, True)
