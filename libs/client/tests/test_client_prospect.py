"""validate --against: before a model is trained, what chance alone does to each fairness gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.client.cli.main import app
from penstock.client.prospect import Outlook, prospect
from penstock.contracts.load import read

FILE = """
version: 1
pipeline: loans
entities: {person: {key: id}}
sources:
  events:
    entity: person
    id: id
    timestamp: at
    missing: ["?"]
    fields:
      income: {type: number}
      sex: {type: category, protected: true}
      age: {type: number, protected: true}
      bad: {type: category}
targets: {bad: {from: events.bad, type: binary, positive: "yes"}}
audit:
  groups: {sex: {}, age: {bins: [30]}}
  gates:
    - {metric: auroc, at_least: 0.7}
    - {metric: equalized_odds_difference, by: sex, at_most: 0.1}
    - {metric: demographic_parity_ratio, by: age, at_least: 0.8}
"""
PIPELINE = read(FILE, "pipeline.yaml")
FEMALE, MALE = [("f", True), ("f", False)], [("m", True), ("m", False)]


def loans(*counts: int) -> list[dict[str, object]]:
    """So many loans of women that went bad, that did not, and of men."""
    cells = zip([*FEMALE, *MALE], counts, strict=True)
    return [
        {"id": "1", "sex": sex, "age": 40, "bad": "yes" if bad else "no"}
        for (sex, bad), count in cells
        for _ in range(count)
    ]


def by_sex(*counts: int) -> Outlook:
    return prospect(PIPELINE, "events", loans(*counts)).gates[1]


def test_a_thousand_loans_let_no_fair_model_show_a_tenth() -> None:
    few = by_sex(110, 200, 190, 500)
    assert few.fair is not None
    assert few.needs is not None
    assert 0.2 < few.fair < 0.35
    assert few.why == ""
    enough = by_sex(*(count * few.needs // 1000 for count in (110, 200, 190, 500)))
    assert enough.fair is not None
    assert enough.needs is not None
    assert enough.fair < 0.1
    assert enough.needs == pytest.approx(few.needs, rel=0.25)


def test_a_thin_cell_is_named_and_asks_for_its_rows() -> None:
    thin = by_sex(20, 2000, 3000, 3000)
    assert thin.why == "f, label yes has 6 audit rows, 30 are needed"
    assert thin.needs is not None
    assert thin.needs >= 5 * 8020


@pytest.mark.parametrize(
    ("counts", "why"),
    [((0, 0, 10, 10), "not two groups of sex"), ((0, 0, 0, 0), "no row has a label")],
)
def test_what_cannot_be_told_is_said(counts: tuple[int, int, int, int], why: str) -> None:
    found = by_sex(*counts)
    assert found.fair is found.needs is None
    assert why in found.why


def test_a_gate_of_quality_asks_for_more_than_its_limit_the_fewer_rows_there_are() -> None:
    few, many, tiny = (
        prospect(PIPELINE, "events", loans(*counts)).gates[0]
        for counts in ((30, 70, 30, 70), (3000, 7000, 3000, 7000), (1, 3, 1, 3))
    )
    assert few.reach is not None
    assert many.reach is not None
    assert 0.84 < few.reach < 0.93
    assert 0.7 < many.reach < 0.73
    assert tiny.reach is None
    assert tiny.why == "some label has 0 audit rows, too few to tell"


def test_a_rare_label_keeps_nobody_from_knowing_what_accuracy_a_gate_asks_for() -> None:
    pipeline = read(FILE.replace("metric: auroc", "metric: accuracy"), "pipeline.yaml")
    rare, tiny = (
        prospect(pipeline, "events", loans(*counts)).gates[0] for counts in ((1, 2000, 1, 2000), (1, 3, 1, 3))
    )
    assert rare.reach is not None
    assert 0.7 < rare.reach < 0.75
    assert tiny.why == "there are 2 audit rows, too few to tell"


def test_rows_without_a_label_take_no_part() -> None:
    rows = [*loans(10, 10, 10, 10), {"id": "2", "sex": "f", "bad": "?"}, b"broken"]
    found = prospect(PIPELINE, "events", rows)
    assert (found.rows, found.labelled, found.audited) == (42, 40, 12)
    assert [one.gate.by for one in found.gates] == [None, "sex", "age"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "loans.yaml"
    path.write_text(FILE)
    return path


def test_the_command_shows_a_table_and_the_rows_needed(file: Path) -> None:
    data = file.with_suffix(".csv")
    lines = (
        f"{n},2026-01-31T00:00:00Z,1,{'fm'[n % 2]},{20 + n % 40},{'yes' if n % 3 else 'no'}\n"
        for n in range(900)
    )
    data.write_text("id,at,income,sex,age,bad\n" + "".join(lines))
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert done.exit_code == 0
    assert "900 rows, 900 with a label, about 270 audited" in done.output
    assert "equalized odds difference by sex ≤ 0.1" in done.output
    told = CliRunner().invoke(app, ["validate", str(file), "--against", str(data), "--json"])
    auroc, sex, age = json.loads(told.stdout)["against"]["gates"]
    assert sex["rows_needed"] > 900
    assert 0.5 < age["fair"] < 1
    assert age["rows_needed"] is None
    assert 0.7 < auroc["to_be_reached"] < 0.85


@pytest.mark.parametrize(("gaps", "ends"), [(90, 1), (30, 0)])
def test_rows_that_would_be_rejected_are_told_and_count_for_no_audit(
    file: Path, gaps: int, ends: int
) -> None:
    file.write_text(FILE.replace("sex: {type: category,", "sex: {type: category, required: true,"))
    data = file.with_suffix(".csv")
    lines = (
        f"{n},2026-01-31T00:00:00Z,1,{sex},40,{'yes' if n % 3 else 'no'}\n"
        for n in range(900)
        for sex in ("?" if 5 <= n < 5 + gaps else "fm"[n % 2])
    )
    data.write_text("id,at,income,sex,age,bad\n" + "".join(lines))
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert done.exit_code == ends
    assert f"{gaps} of 900 rows would be rejected:\n  {gaps} missing_field: `sex` " in done.stderr
    assert "(row 6)" in done.stderr
    assert f"{900 - gaps} records of 900 rows, {900 - gaps} with a label" in done.stdout
    told = CliRunner().invoke(app, ["validate", str(file), "--against", str(data), "--json"])
    kind = {"reason": "missing_field", "field": "sex", "count": gaps, "row": 6}
    assert json.loads(told.stdout)["against"]["rejects"] == [kind]


def test_names_that_nobody_declared_are_one_kind(file: Path) -> None:
    """A key of its own in every row is no reason for as many lines."""
    data = file.with_suffix(".jsonl")
    row = {"at": "2026-01-31T00:00:00Z", "income": 1, "sex": "f", "age": 40, "bad": "yes"}
    lines = (json.dumps(row | {"id": f"{n}", **({f"x{n}": 1} if n else {})}) for n in range(60))
    data.write_text("\n".join(lines) + "\n")
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert "59 of 60 rows would be rejected:\n  59 unknown_field: " in done.stderr
    assert done.stderr.count("unknown_field") == 1


def test_no_more_than_ten_kinds_are_told_one_by_one(file: Path) -> None:
    more = "\n      ".join(f"f{n}: {{type: number, required: true}}" for n in range(14))
    file.write_text(FILE.replace("income: {type: number}", f"income: {{type: number}}\n      {more}"))
    names = [f"f{n}" for n in range(14)]
    data = file.with_suffix(".jsonl")
    row = {"at": "2026-01-31T00:00:00Z", "income": 1, "sex": "f", "age": 40, "bad": "yes"}
    row |= dict.fromkeys(names, 1)
    lines = ({k: v for k, v in row.items() if k != lacks} | {"id": lacks} for lacks in names)
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert (done.stderr.count("missing_field"), "and 4 other kinds" in done.stderr) == (10, True)


def test_columns_that_do_not_fit_are_named(file: Path) -> None:
    data = file.with_suffix(".csv")
    data.write_text("id,at,incom,sex,age,bad\n1,2026-01-31T00:00:00Z,3,f,20,yes\n")
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert done.exit_code == 2
    assert "column `incom`: the source declares no such field; did you mean `income`?" in done.output
    assert "no source `loans`" in str(
        CliRunner().invoke(app, ["validate", str(file), "--against", str(data), "--source", "loans"]).output
    )


def test_a_column_that_is_read_and_not_there_is_warned_of(file: Path) -> None:
    data = file.with_suffix(".csv")
    data.write_text("id,at,sex,age,bad\n" + "1,2026-01-31T00:00:00Z,f,20,yes\n" * 20)
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(data)])
    assert "column `income` is not in the file: it is a feature, and each row would lack it" in done.output
    assert "--without income" in done.output
    lines, row = (
        file.with_suffix(".ndjson"),
        {"at": "2026-01-31T00:00:00Z", "sex": "f", "age": 20, "bad": "yes"},
    )
    lines.write_text("".join(json.dumps({"id": f"{n}", **row}) + "\n" for n in range(20)))
    done = CliRunner().invoke(app, ["validate", str(file), "--against", str(lines)])
    assert (done.exit_code, "warning" in done.output) == (0, False), (
        "a line may leave it out, a later one not"
    )


def test_inputs_that_give_a_protected_column_back_are_warned_of(file: Path) -> None:
    data = file.with_suffix(".csv")
    lines = (
        f"{n},2026-01-31T00:00:00Z,{1000 + n % 2},{'fm'[n % 2]},{20 + n % 37},{'yes' if n % 3 else 'no'}\n"
        for n in range(900)
    )
    data.write_text("id,at,income,sex,age,bad\n" + "".join(lines))
    command = ["validate", str(file), "--against", str(data)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "`income` gives back `sex`, which is protected: R² 1.000 on 900 rows; leave out" in done.stderr
    [proxy] = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["against"]["proxies"]
    assert (proxy["protected"], proxy["inputs"]) == ("`sex`", ["income"])
    data.write_text(data.read_text().replace(",1001,", ",1000,"))
    assert "gives back" not in CliRunner().invoke(app, command).stderr
