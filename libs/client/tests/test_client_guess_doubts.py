"""A first pipeline file: what gives a protected column back, what only seems known, what seems a code."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.client.guess.codes import codes_of
from penstock.client.guess.decide import Answers
from penstock.client.guess.fields import Field
from penstock.client.guess.infer import GUESSES, First, first
from penstock.client.guess.table import Column, read_table
from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rejected, Rules

ROWS = 400


def guessed(folder: Path, header: str, rows: Iterable[Sequence[object]], answers: Answers = GUESSES) -> First:
    path = folder / "some.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return first(read_table(path), answers)


def field(found: First, name: str) -> Field:
    return next(one for one in found.guess.fields if one.name == name)


def left_out(found: First) -> set[str]:
    return {one.name for one in found.guess.fields if one.left_out}


# -- inputs that give a protected column back ------------------------------------------------------


def test_the_columns_of_a_family_give_back_the_one_that_is_protected(tmp_path: Path) -> None:
    """Four regions, of which one is protected as a person says; three tell who is of it."""
    draw = random.Random(1)
    regions = [draw.randrange(4) for _ in range(ROWS)]
    rows = [[*(int(region == n) for n in range(4)), draw.random(), draw.choice("ny")] for region in regions]
    header = "from_north,from_south,from_east,from_west,income,approved"
    found = guessed(tmp_path, header, rows, Answers(protected=("from_north",)))
    assert left_out(found) == {"from_south", "from_east", "from_west"}
    assert (
        "gives back `from_north`, which is protected: R² 1.000 on 400 rows"
        in field(found, "from_east").left_out
    )
    assert set(read(found.text).resolved_features()) == {"income"}
    kept = Answers(protected=("from_north",), kept=("from_south", "from_east", "from_west"))
    assert not left_out(first(found.guess.table, kept)), "a person knows better"


def test_who_is_in_none_of_several_protected_groups_is_in_another(tmp_path: Path) -> None:
    draw = random.Random(1)
    groups = [draw.randrange(3) for _ in range(ROWS)]
    rows = [[int(of == 0), int(of == 1), "ab"[of == 2], draw.choice("ny")] for of in groups]
    found = guessed(tmp_path, "black,hispan,office,approved", rows)
    assert field(found, "office").left_out.startswith("gives back `black` or `hispan`, which is protected")


@pytest.mark.parametrize(
    ("header", "row", "out"),
    [
        (
            "sex,title,height,ok",
            lambda d, n: ["fm"[n % 2], ["Mrs", "Mr", "Ms", "Mr"][n % 4], d.random()],
            "title",
        ),
        ("age,born,height,ok", lambda d, n: [n % 70 + 18, 2020 - n % 70 - 18, d.random()], "born"),
        ("age,started,years,ok", lambda d, n: _worked(d), "started years"),
        ("senior,room,height,ok", lambda d, n: [int(n % 90 > 60), n % 90, d.random()], "room"),
        (
            "sex,title,height,ok",
            lambda d, n: ["fm"[n % 2], d.choice(["Dr", "Mr"]), n % 2 + d.gauss(0, 1)],
            "",
        ),
        ("age,born,height,ok", lambda d, n: [n % 70 + 18, n % 70 + d.gauss(0, 9), d.random()], ""),
    ],
)
def test_one_or_two_inputs_give_a_protected_column_back(
    tmp_path: Path, header: str, row: Callable[[random.Random, int], list[object]], out: str
) -> None:
    draw = random.Random(2)
    found = guessed(tmp_path, header, [[*row(draw, n), draw.choice("ny")] for n in range(ROWS)])
    assert left_out(found) == set(out.split())


def _worked(draw: random.Random) -> list[object]:
    """Age, when somebody began to work, and for how many years."""
    started, years = draw.randrange(15, 40), draw.randrange(30)
    return [started + years, started, years]


def test_many_columns_of_chance_give_nobody_back(tmp_path: Path) -> None:
    draw = random.Random(3)
    header = ",".join(["sex", *(f"c{n}x" for n in range(80)), "ok"])
    rows = [
        [draw.choice("fm"), *(draw.randrange(4) for _ in range(80)), draw.choice("ny")] for _ in range(100)
    ]
    assert not left_out(guessed(tmp_path, header, rows))


def test_a_protected_column_is_never_the_next_target(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [[draw.random(), draw.choice("xyz"), draw.randrange(2)] for _ in range(ROWS)]
    found = guessed(tmp_path, "thing,kind_of_room,white", rows)
    assert field(found, "white").protected
    assert "white" not in (found.guess.target.field.name, *found.guess.target.close)


# -- what the target tells, and what tells it in part ----------------------------------------------


def test_what_a_class_tells_is_left_out(tmp_path: Path) -> None:
    """An application is approved, changed or rejected; who is approved is known only then."""
    draw = random.Random(1)
    actions = [draw.choice([1, 1, 1, 2, 3]) for _ in range(ROWS)]
    rows = [[action, draw.random(), int(action < 3), draw.randrange(2)] for action in actions]
    found = guessed(tmp_path, "action,income,signed,married_twice", rows, Answers(target="action"))
    assert found.guess.target.task == "multiclass"
    assert left_out(found) == {"signed"}
    assert "a function of `action`, which tells it in 100.0%" in field(found, "signed").left_out


def test_a_side_with_nearly_one_answer_is_doubted_and_stays(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = []
    for n in range(ROWS):
        asked = draw.choice([0, 0, 1, 2, 5])
        paid = "yes" if (asked and n != 7) or draw.random() < 0.7 else "no"
        rows.append([asked, draw.randrange(9), draw.choice("abc"), paid])
    found = guessed(tmp_path, "asked,height,shape,paid", rows)
    doubts = {one.name: one.doubt for one in found.guess.fields if one.doubt}
    assert set(doubts) == {"asked"}
    above = sum(row[0] > 0 for row in rows)
    assert f"of {above} rows with `asked` > 0 have `paid` yes" in doubts["asked"]
    assert doubts["asked"].endswith("of all do: when is it known?")
    assert doubts["asked"] in found.text
    assert "asked" in read(found.text).resolved_features()
    (line,) = [line for line in found.text.splitlines() if "without this line it is no input" in line]
    assert set(read(found.text.replace(line + "\n", "")).resolved_features()) == {"height", "shape"}


def test_what_is_so_for_one_of_several_classes_alone_is_doubted(tmp_path: Path) -> None:
    """Nothing is left to pay of what is paid; of the others a number differs from class to class."""
    draw, rows = random.Random(1), []
    for _ in range(ROWS):
        status = draw.choices(["current", "late", "paid"], [0.8, 0.1, 0.1])[0]
        left = "0" if status == "paid" else f"{draw.uniform(1, 9):.2f}"
        rows.append([left, draw.gauss(status == "late", 1), draw.choice("abc"), status])
    doubts = {
        one.name: one.doubt
        for one in guessed(tmp_path, "balance,height,shape,loan_status", rows).guess.fields
        if one.doubt
    }
    paid = sum(row[-1] == "paid" for row in rows)
    assert set(doubts) == {"balance"}
    assert doubts["balance"].startswith(f"{paid} of {paid} rows with `balance` 0 have `loan_status` paid")


def test_what_is_filled_for_one_answer_alone_is_doubted(tmp_path: Path) -> None:
    draw = random.Random(1)
    answers = [draw.choice("ny") for _ in range(ROWS)]
    rows = [
        [draw.random() if answer == "y" and n % 4 else "", draw.random(), answer]
        for n, answer in enumerate(answers)
    ]
    doubt = field(guessed(tmp_path, "fee,height,paid", rows), "fee").doubt
    assert "rows with `fee` not missing have `paid` y" in doubt


# -- codes, ranges, ids, rows without an outcome ---------------------------------------------------


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ([*range(20), *range(20), 999, 999], {999: 2}),
        ([0, 1] * 20 + [666] * 3, {666: 3}),
        ([*range(18, 60), *[-1] * 5], {-1: 5}),
        ([*range(18, 60), *[99999] * 5, *[-9] * 4], {99999: 5, -9: 4}),
        ([*range(6, 480, 6), 999999.375, 999999.375], {999999.375: 2}),
        ([*range(20), *range(20), 999], {}),
        ([-1, 0, 1] * 20, {}),
        ([1, 2, 5] * 20, {}),
        ([*range(100), 130, 130], {}),
        ([0, 1] * 20, {}),
    ],
)
def test_a_number_far_from_all_others_that_repeats_may_be_a_code(
    values: list[float], codes: dict[float, int]
) -> None:
    found, _ = codes_of(Column("x", "x", values))
    assert {code.value: code.count for code in found} == codes


def test_a_likely_code_is_asked_about_with_what_to_write(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        [999 if n % 5 == 0 else draw.randrange(29), draw.random(), draw.choice("ny")] for n in range(ROWS)
    ]
    found = guessed(tmp_path, "lines,height,ok", rows)
    said = "999 (80 times) apart from the rest, 0 to 28: a code for missing? Then `range: [0, 28]"
    assert said in found.text
    [line] = [line for line in found.text.splitlines() if line.strip().startswith("lines: {")]
    answered = line.split("#")[0].replace("[0, 10000], required: true", "[0, 28], on_violation: set_missing")
    judged = _judged(read(found.text.replace(line, answered)), lines=999, height=1, ok="y")
    assert isinstance(judged, Accepted)
    assert judged.fields["lines"] is None


def test_an_index_that_was_written_with_a_table_is_no_input_though_rows_stand_twice(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [[n, draw.random(), draw.choice("ny")] for n in range(ROWS)]
    found = guessed(tmp_path, "Unnamed: 0,height,ok", [*rows, *rows[:3]])
    assert "it numbers the rows" in field(found, "Unnamed_0").left_out
    assert "  # Unnamed_0: {from: events.Unnamed_0}  # left out: it numbers the rows" in found.text
    floors = [[draw.randrange(50), draw.random(), draw.choice("ny")] for n in range(ROWS)]
    assert not field(guessed(tmp_path, "Unnamed: 0,height,ok", floors), "Unnamed_0").left_out


def test_a_word_for_unknown_is_asked_about(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        [draw.choice("MFU"), draw.choice(["belted", "none", "UNK", "k.A."]), draw.choice("UV"), n % 2]
        for n in range(ROWS)
    ]
    text = guessed(tmp_path, "sex,belt,lane,y", rows).text
    lines = {
        name: next(line for line in text.splitlines() if f" {name}: {{type" in line)
        for name in ("sex", "belt", "lane")
    }
    assert "times): gaps? Then name them in `missing`" in lines["belt"]
    assert all(f"`{text}` (" in lines["belt"] for text in ("UNK", "k.A."))
    assert "`U` (" in lines["sex"]
    assert "times): a gap? Then name it in `missing`" in lines["sex"]
    assert "gap" not in lines["lane"]


def test_a_weight_of_rows_is_asked_about_and_that_of_a_body_is_none(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        [draw.random() * 90, draw.gauss(70, 9), draw.gauss(3, 0.4), draw.choice("ny")] for n in range(ROWS)
    ]
    text = guessed(tmp_path, "wt_natl,weight,birth_weight,ok", rows).text
    assert text.count("sample_weight") == 1
    line = text.partition("Then `")[2].partition("`")[0]
    assert line == "training: {sample_weight: events.wt_natl}"
    weighed = read(f"{text}{line}\n")
    assert weighed.training.sample_weight == "events.wt_natl"
    assert "wt_natl" not in weighed.resolved_features()
    old = guessed(tmp_path, "seen_at,wt_natl,height,ok", [["2017-03-05T08:00:00", *row[1:]] for row in rows])
    line = old.text.partition("Then `")[2].partition("` under `training`, below")[0]
    both = read(old.text.replace("\ntraining:\n", f"\ntraining:\n  {line}\n")).training
    assert (both.sample_weight, both.max_age > timedelta(days=3000)) == ("events.wt_natl", True)


def test_the_gate_rests_on_no_input_that_is_doubted(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = []
    for _ in range(3 * ROWS):
        answer = draw.random() < 0.4
        severe = 4 if answer and draw.random() < 0.6 else draw.randrange(4)
        rows.append([severe, draw.gauss(float(answer), 1.0), "ny"[answer]])
    found = guessed(tmp_path, "severity,height,ok", rows)
    assert field(found, "severity").doubt
    assert found.baseline is not None
    assert found.baseline.doubted == ("severity",)
    assert found.baseline.with_doubted is not None
    assert found.baseline.with_doubted > found.baseline.mean + 0.05
    assert f"# Without `severity`, doubted above; with: {found.baseline.with_doubted:.3f}." in found.text
    limit = float(
        next(line for line in found.text.splitlines() if "metric: auroc" in line)
        .split("at_least: ")[1]
        .split(",")[0]
    )
    assert limit < found.baseline.mean


def _judged(pipeline: Pipeline, **fields: object) -> Accepted | Rejected:
    source = pipeline.sources["events"]
    event = {source.id: "1", pipeline.key: "1", source.timestamp: "2026-01-31T00:00:00Z"} | fields
    return Rules(pipeline, "events").check(json.dumps(event).encode())


def test_a_row_without_an_outcome_is_taken_and_a_third_value_is_not(tmp_path: Path) -> None:
    draw = random.Random(1)
    pipeline = read(
        guessed(tmp_path, "height,ok", [[draw.random(), draw.choice("ny")] for _ in range(ROWS)]).text
    )
    assert isinstance(_judged(pipeline, height=0.5), Accepted)
    assert isinstance(_judged(pipeline, height=0.5, ok=None), Accepted)
    assert isinstance(_judged(pipeline, height=0.5, ok="y"), Accepted)
    third = _judged(pipeline, height=0.5, ok="x")
    assert isinstance(third, Rejected)
    assert third.reason == "unknown_value"


def test_an_age_reaches_no_further_than_people_do(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        [draw.randrange(18, 60), draw.randrange(60), draw.randrange(60), draw.choice("ny")]
        for _ in range(ROWS)
    ]
    fields = read(guessed(tmp_path, "age,age_in_months,height,ok", rows).text).sources["events"].fields
    assert [fields[name].range for name in ("age", "age_in_months", "height")] == [
        (0, 150),
        (0, 1000),
        (0, 1000),
    ]


@pytest.mark.parametrize("name", ["EmployeeNumber", "what_it_says"])
def test_a_text_that_each_row_has_of_its_own_names_it(tmp_path: Path, name: str) -> None:
    draw = random.Random(1)
    rows = [[draw.random(), f"E{n:05d}", draw.choice("ny")] for n in range(ROWS)]
    found = guessed(tmp_path, f"height,{name},left", rows)
    pipeline = read(found.text)
    assert (pipeline.key, pipeline.sources["events"].id) == (name, name)
    assert not left_out(found)
    assert name not in pipeline.sources["events"].fields


def test_few_rows_get_a_word(tmp_path: Path) -> None:
    rows = [[n % 7 + n / 9, "ny"[n % 3 > 0]] for n in range(300)]
    assert (
        "299 rows: an audit of fewer than some 300 says little"
        in guessed(tmp_path, "height,ok", rows[1:]).text
    )
    assert "says little" not in guessed(tmp_path, "height,ok", rows).text
