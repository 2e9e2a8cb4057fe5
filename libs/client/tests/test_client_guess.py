"""A first pipeline file from data at hand: what is guessed, what is doubted, and why it says so."""

import csv
import json
import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from penstock.client.checks import compared
from penstock.client.files import rows as rows_of
from penstock.client.guess import evidence, names
from penstock.client.guess.decide import Answers
from penstock.client.guess.infer import First, first
from penstock.client.guess.report import report
from penstock.client.guess.table import SAMPLE, read_table
from penstock.client.guess.times import unread
from penstock.contracts.errors import Invalid
from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline

ROWS = 300


def file_of(path: Path) -> str:
    return first(read_table(path)).text


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is tried on the guess, which takes most of its time."""
    monkeypatch.setattr(evidence, "baseline", lambda guess: None)


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd names, marks of missing, a leak, a twin, what is known afterwards, postcodes, protected
    columns in other languages; no id and no time.
    """
    draw = random.Random(7)
    header = ["education-num", "Geschlecht", "âge", "postcode", "note", "debts", "risk score", "paid", "twin"]
    header += ["recovered", "last name", "Defaulted?"]
    path = tmp_path_factory.mktemp("loans") / "Loans.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        lines = csv.writer(opened, delimiter=";")
        lines.writerow(header)
        lines.writerows(_loan(draw) for _ in range(ROWS))
    return path


def _loan(draw: random.Random) -> Sequence[object]:
    years = draw.randrange(5, 20)
    bad = draw.random() < 0.8 - 0.04 * years
    note = " ".join(draw.choices(["a", "loan", "for", "our", "house", "car", "boat"], k=6))
    debts = draw.choice(["?", "-", draw.randrange(9_000)])
    recovered = draw.randrange(900) if bad and draw.random() < 0.9 else ""
    return [
        years,
        draw.choice("mw"),
        draw.randrange(18, 80),
        f"0{draw.randrange(100, 120)}",
        note,
        debts,
        100 * bad + draw.random(),
        draw.randrange(2),
        "no" if bad else "yes",
        recovered,
        f"name{draw.randrange(10_000)}",
        int(bad),
    ]


@pytest.fixture(scope="module")
def found(loans: Path) -> First:
    return first(read_table(loans))


@pytest.fixture(scope="module")
def pipeline(found: First) -> Pipeline:
    return read(found.text)


def test_odd_columns_are_fields_that_say_where_they_come_from(found: First, pipeline: Pipeline) -> None:
    fields = pipeline.sources["events"].fields
    assert (fields["education_num"].column, fields["age"].column) == ("education-num", "âge")
    assert fields["Defaulted"].column == "Defaulted?"
    assert pipeline.sources["events"].columns == {"row": "$row_content", "published_at": "$publishing_time"}
    assert "no column says when" in found.text
    assert pipeline.sources["events"].missing == ("?", "-")
    assert {name: fields[name].type for name in ("debts", "postcode", "note", "Geschlecht")} == {
        "debts": "number",
        "postcode": "category",
        "note": "text",
        "Geschlecht": "category",
    }


def test_the_target_is_the_question_and_not_a_number(pipeline: Pipeline) -> None:
    assert (pipeline.target.type, pipeline.target.positive) == ("binary", "1")
    assert pipeline.field(pipeline.target.source_field).values == ("0", "1"), "a third value is rejected"


def test_what_gives_the_answer_away_is_left_out_with_its_figure(found: First, pipeline: Pipeline) -> None:
    left = {one.name: one.left_out for one in found.guess.fields if one.left_out}
    assert set(left) == {"risk_score", "twin", "recovered"}
    assert "nearly alone: AUROC" in left["risk_score"]
    assert "a twin of `Defaulted`" in left["twin"]
    assert "known only afterwards" in left["recovered"]
    assert all(f"# {name}: {{from" in found.text for name in left)
    assert not any(pipeline.sources["events"].fields[name].required for name in left), "not known yet"
    assert set(pipeline.resolved_features()) == {"education_num", "postcode", "note", "debts", "paid"}
    again = first(found.guess.table, Answers(kept=("recovered",)))
    assert "recovered" in read(again.text).resolved_features(), "a person knows better"


def test_a_column_that_says_no_more_than_the_most_frequent_class_is_no_leak(tmp_path: Path) -> None:
    """95 of 100 are `current`: whoever always says so is right as often. One class has three rows."""
    draw, path = random.Random(3), tmp_path / "loans.csv"
    states = ["late" if n % 100 in range(5) else "current" for n in range(600)]
    states[7:10] = ["stolen"] * 3
    rows = [
        f"{draw.randint(0, 4)},{draw.random():.3f},{len(state) + draw.random() / 10:.3f},{state}"
        for state in states
    ]
    path.write_text("collections,income,told,loan_status\n" + "\n".join(rows) + "\n")
    found = first(read_table(path))
    assert {one.name for one in found.guess.fields if one.left_out} == {"told"}
    assert found.baseline, "a class of three rows keeps nobody from a gate"
    assert found.baseline.rows == 597
    [gate] = read(found.text).audit.gates
    assert (gate.metric, gate.limit) == ("accuracy", 0.94), (
        "who always says the most frequent is right so often"
    )
    assert "that may be guessing" in found.text


@pytest.mark.parametrize(
    ("columns", "target", "task"),
    [
        ("got_callback:ny color:abc amount:n", "got_callback", "binary"),
        ("lot:abc Sale_Price:n lat:n", "Sale_Price", "regression"),
        ("smoker:ny ban:ny amount:n", "smoker", "binary"),
        ("smoker:ny amount:n grade2:ny", "grade2", "binary"),
        ("thing:n color:abc dose:n other:n", "other", "regression"),
        ("amount:n color:abc lat:n", "amount", "regression"),
        ("poverty:abc amount:n sex:mf", "poverty", "multiclass"),
        ("previous_status:ny debts:n status:ny region:abc", "status", "binary"),
        ("class:n debts:n", "debts", "regression"),
        ("thing:n x1:n x2:n x3:n x4:n", "thing", "regression"),
        ("lohn:n debts:n other:n", "lohn", "regression"),
        ("thing:n y:abc other:n", "y", "multiclass"),
        ("thing:n x:n y:n some:n", "some", "regression"),
        ("thing:n depth:n depth2:n sqrtDepth:n", "thing", "regression"),
        ("color:abc time:n delta:ny other:n", "time", "regression"),
        ("thing:n subsample:ny", "thing", "regression"),
        ("thing:n here:ab known:ny IndHere:xy", "known", "binary"),
    ],
)
@pytest.mark.usefixtures("untried")
def test_a_target_is_named_as_an_answer_or_stands_at_an_end(
    tmp_path: Path, columns: str, target: str, task: str
) -> None:
    path, draw = tmp_path / "some.csv", random.Random(1)
    header, kinds = zip(*(column.split(":") for column in columns.split()), strict=True)

    def cell(kind: str) -> str:
        return f"{draw.random():.3f}" if kind == "n" else draw.choice(kind)

    rows = [",".join(cell(kind) for kind in kinds) for _ in range(60)]
    path.write_text("\n".join([",".join(header), *rows]) + "\n")
    guess = first(read_table(path)).guess
    assert (guess.target.field.name, guess.target.task) == (target, task)


@pytest.mark.usefixtures("untried")
def test_a_file_is_named_after_its_target(tmp_path: Path) -> None:
    path, draw = tmp_path / "late_deliveries.csv", random.Random(1)
    rows = [f"{draw.random():.3f},{draw.random():.3f},{draw.random():.3f}" for _ in range(60)]
    path.write_text("\n".join(["distance,minutes_of_delivery,stops", *rows]) + "\n")
    assert first(read_table(path)).guess.target.field.name == "minutes_of_delivery"


@pytest.mark.usefixtures("untried")
def test_two_kinds_of_what_a_file_is_named_after_are_no_answer(tmp_path: Path) -> None:
    path, draw = tmp_path / "solder.csv", random.Random(1)
    rows = [f"{draw.choice('ab')},{draw.choice('xyz')},{draw.random():.3f}" for _ in range(60)]
    path.write_text("\n".join(["solder,mask,skipped", *rows]) + "\n")
    assert first(read_table(path)).guess.target.field.name == "skipped"


@pytest.mark.usefixtures("untried")
def test_what_says_that_a_duration_was_cut_off_is_no_input(tmp_path: Path) -> None:
    path, draw = tmp_path / "patients.csv", random.Random(1)
    rows = [f"{draw.random():.3f},{draw.randint(0, 1)},{draw.randint(20, 90)}" for _ in range(60)]
    path.write_text("\n".join(["time,censored,height", *rows]) + "\n")
    guess = first(read_table(path)).guess
    assert guess.target.field.name == "time"
    assert {one.name for one in guess.fields if one.left_out} == {"censored"}


@pytest.mark.usefixtures("untried")
def test_a_copy_of_a_count_is_a_leak_however_rare_its_high_values(tmp_path: Path) -> None:
    path, draw = tmp_path / "students.csv", random.Random(1)
    counts = [min(int(draw.expovariate(0.6)) ** 2, 80) for _ in range(200)]
    rows = [f"{draw.random():.3f},{count + draw.random() / 50:.3f},{count}" for count in counts]
    path.write_text("\n".join(["height,told,articles", *rows]) + "\n")
    assert {one.name for one in first(read_table(path)).guess.fields if one.left_out} == {"told"}


@pytest.mark.usefixtures("untried")
def test_a_panel_s_first_column_numbers_who_was_asked(tmp_path: Path) -> None:
    """Thirty people with six rows each, in no order; as many drawn at random number nobody."""
    path, draw = tmp_path / "panel.csv", random.Random(1)
    for numbers, entity in ((list(range(1, 31)) * 6, "panelist"), (draw.choices(range(1, 31), k=180), None)):
        draw.shuffle(numbers)
        rows = [f"{number},{draw.random():.3f},{draw.random():.3f}" for number in numbers]
        path.write_text("\n".join(["panelist,income,height", *rows]) + "\n")
        found = first(read_table(path)).guess.entity
        assert (found.name if found else None) == entity


@pytest.mark.usefixtures("untried")
def test_rows_that_share_what_their_group_has_belong_together(tmp_path: Path) -> None:
    """Sixty families of one to seven children; their `shelf` says nothing of a family."""
    path, draw = tmp_path / "heights.csv", random.Random(1)
    families = [(f"{100 + n}{draw.choice('ab')}", draw.random(), draw.random()) for n in range(60)]
    rows = [
        f"{family},{father:.4f},{mother:.4f},{draw.random():.3f}"
        for family, father, mother in families
        for _ in range(draw.randint(1, 7))
    ]
    for header, entity in (("family,father,mother,height", "family"), ("year,father,mother,height", None)):
        path.write_text("\n".join([header, *rows]) + "\n")
        found = first(read_table(path)).guess.entity
        assert (found.name if found else None) == entity
    less = [f"{row.rsplit(',', 2)[0]},1" for row in rows]
    path.write_text("\n".join(["family,father,height", *less]) + "\n")
    assert first(read_table(path)).guess.entity is None, "one alone may be the same thing in other words"


@pytest.mark.usefixtures("untried")
def test_a_first_column_that_numbers_the_rows_in_any_order_names_them(tmp_path: Path) -> None:
    path, draw = tmp_path / "patients.csv", random.Random(1)
    numbers = list(range(1, 61))
    draw.shuffle(numbers)
    for shift, named in ((0, "obs"), (7, None)):
        rows = [f"{number + shift},{draw.random():.3f},{draw.choice('ny')}" for number in numbers]
        path.write_text("\n".join(["obs,height,cured", *rows]) + "\n")
        found = first(read_table(path)).guess.id
        assert (found.name if found else None) == named


def test_a_mere_guess_names_the_next_one(tmp_path: Path) -> None:
    path, draw = tmp_path / "some.csv", random.Random(1)
    rows = [f"{draw.choice('abc')},{draw.random():.3f},{draw.random():.3f}" for _ in range(60)]
    path.write_text("\n".join(["color,thing,other", *rows]) + "\n")
    found = first(read_table(path))
    assert found.guess.target.close
    assert (
        f"a mere guess, as the last column; is it the one, or `{found.guess.target.close[0]}`" in found.text
    )


@pytest.mark.usefixtures("untried")
def test_what_a_group_of_rows_has_in_common_is_no_answer_of_a_row(tmp_path: Path) -> None:
    path, draw = tmp_path / "pupils.csv", random.Random(1)
    rows = [f"{draw.random():.3f},{room},{room % 7}.5" for room in map(draw.randrange, [30] * 300)]
    path.write_text("\n".join(["reached,room,mean_of_room", *rows]) + "\n")
    assert first(read_table(path)).guess.target.field.name == "reached"


def test_the_other_column_that_is_nearly_as_likely_is_named(tmp_path: Path) -> None:
    path, draw = tmp_path / "cases.csv", random.Random(1)
    rows = [f"{draw.choice('ny')},{draw.random():.3f},{draw.choice('ny')}" for _ in range(60)]
    path.write_text("\n".join(["convicted,debts,released", *rows]) + "\n")
    found = first(read_table(path))
    assert (found.guess.target.field.name, found.guess.target.close) == ("released", ("convicted",))
    assert "is it the one, or `convicted`?" in found.text
    told = first(found.guess.table, Answers(target="convicted"))
    assert (told.guess.target.field.name, told.guess.target.close) == ("convicted", ())


def test_a_gate_knows_nobody_of_whom_it_saw_other_rows(tmp_path: Path) -> None:
    """Each of sixty people has six rows, one answer, and a town of their own."""
    path, draw = tmp_path / "visits.csv", random.Random(1)
    answers = [draw.choice("ny") for _ in range(60)]
    rows = [f"p{n % 60},{1000 + n % 60}.5,{draw.random():.3f},{answers[n % 60]}" for n in range(360)]
    path.write_text("\n".join(["patient_id,town,height,recovered", *rows]) + "\n")
    found = first(read_table(path))
    assert found.guess.entity
    assert found.baseline
    assert found.baseline.mean < 0.7, "and no nearer to one"
    assert not [one.name for one in found.guess.fields if one.left_out], "a town is no leak"


def test_whom_the_law_protects_is_grouped_and_gated(found: First, pipeline: Pipeline) -> None:
    assert set(pipeline.audit.groups) == {"Geschlecht", "age"}
    quality, *fair = pipeline.audit.gates
    assert quality.metric == "auroc"
    assert found.baseline
    assert 0.5 <= quality.limit <= found.baseline.mean
    assert f"{found.baseline.mean:.3f}" in found.text, "a gate says where its number comes from"
    assert [(gate.by, gate.on_fail) for gate in fair] == [("Geschlecht", "review"), ("age", "review")]
    assert pipeline.sources["events"].fields["last_name"].personal


def test_the_page_shows_each_field_and_nobodys_words(found: First) -> None:
    page = report(found)
    assert page.count("<article>") == len(found.guess.fields)
    assert "AUROC" in page
    assert "name" in page
    assert not any(text in page for text in [*_column(found, "last_name"), *_column(found, "note")])


@pytest.mark.parametrize("classes", ["ab", "abc"])
def test_groups_of_several_classes_are_said_to_have_no_gate(tmp_path: Path, classes: str) -> None:
    path, draw = tmp_path / "votes.csv", random.Random(2)
    rows = [f"{draw.choice('mf')},{draw.random():.3f},{draw.choice(classes)}" for _ in range(90)]
    path.write_text("sex,income,outcome\n" + "\n".join(rows) + "\n")
    text = file_of(path)
    compared = [gate.by for gate in read(text).audit.gates if gate.by]
    assert (compared, "no gate compares groups" in text) == (
        (["sex"], False) if len(classes) == 2 else ([], True)
    )


def _column(found: First, name: str) -> list[str]:
    return [text for one in found.guess.fields if one.name == name for text in one.column.counts]


def test_a_large_file_is_sampled_evenly_and_told_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("x\n" + "".join(f"{number}\n" for number in range(3 * SAMPLE)))
    told: list[int] = []
    table = read_table(path, progress=told.append)
    assert (table.rows, SAMPLE / 2 <= table.sampled <= SAMPLE) == (3 * SAMPLE, True)
    assert table.columns[0].values[-1] in {str(number) for number in range(3 * SAMPLE - 4, 3 * SAMPLE)}
    assert told == sorted(told)
    assert not table.whole


@pytest.mark.parametrize(
    ("values", "kind", "positive"),
    [
        (["0", "1"], "binary", "1"),
        (["good", "bad"], "binary", "bad"),
        ([">50K", "<=50K"], "binary", ">50K"),
        (["1", "2", "3"], "multiclass", None),
        (["a", "b", "c"], "multiclass", None),
        ([str(n / 7) for n in range(60)], "regression", None),
    ],
)
def test_a_target_has_the_type_of_its_values(
    tmp_path: Path, values: list[str], kind: str, positive: str | None
) -> None:
    path = tmp_path / "some.csv"
    path.write_text("x,what\n" + "".join(f"{n % 7},{values[n % len(values)]}\n" for n in range(60)))
    target = read(file_of(path)).target
    assert (target.type, target.positive) == (kind, positive)


@pytest.mark.parametrize(
    "name",
    [
        "Sexe",
        "native-country",
        "ForeignWorker",
        "estado_civil",
        "DOB",
        "policy_holder_age",
        "afam",
        "single",
        "birth_yr",
        "kid5",
        "white",
        "hispan",
        "is_asian",
        "Weiß",
        "asiático",
        "parda",
        "owner_black",
        "nonblackAndNonwhite",
        "senator_democrat",
    ],
)
def test_protected_names_in_several_languages(name: str) -> None:
    assert names.protected(name)


@pytest.mark.parametrize(
    "name",
    [
        "price",
        "percentage",
        "usage",
        "party_size",
        "alternative",
        "native_app",
        "HouseAge",
        "black_list",
        "age_of_domain",
        "birth_qrtr",
        "birth_weight",
        "white_wine",
        "noir_films",
        "house_white",
    ],
)
def test_names_that_only_look_protected(name: str) -> None:
    assert not names.protected(name)


@pytest.mark.parametrize(
    ("values", "protects"),
    [
        (["Female", "Male", "unknown"], True),
        (["m", "f"], True),
        (["Black", "White"], True),
        (["Never married", "married", "divorced"], True),
        (["Branca", "Preta", "Parda", "Indígena"], True),
        (["black", "white", "red"], False),
        (["m", "l", "s"], False),
        (["single", "double"], False),
        (["other", "male"], False),
    ],
)
def test_a_column_protects_whom_its_values_name(values: list[str], protects: bool) -> None:
    assert bool(names.protected_values(values)) == protects


@pytest.mark.usefixtures("untried")
def test_rows_belong_to_a_person_rather_than_to_a_thing(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    rows = [f"{n % 30},{n % 40},{n / 7:.3f}" for n in range(200)]
    path.write_text("movieId,userId,rating\n" + "\n".join(rows) + "\n")
    entity = first(read_table(path)).guess.entity
    assert entity
    assert entity.name == "userId"


def test_a_text_that_is_the_only_input_is_one(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    rows = [
        {"review": f"this {'good' if n % 3 else 'bad'} film number {n} was seen", "good": n % 3 > 0}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = file_of(path)
    assert list(read(text).resolved_features()) == ["review"]
    assert "free text" in text


def test_a_guessed_pipeline_is_one(tmp_path: Path) -> None:
    path = tmp_path / "Loans 2026.csv"
    lines = [
        f"{i},2026-01-{1 + i % 28:02d}T00:00:00+00:00,{20 + i % 50},{'fm'[i % 2]},"
        f"{1000 + i},{'yes' if i % 3 else 'no'}"
        for i in range(90)
    ]
    path.write_text("loan_id,applied_at,age,sex,amount,repaid\n" + "\n".join(lines) + "\n")
    pipeline = read(file_of(path))
    assert pipeline.pipeline == "loans-2026"
    assert pipeline.key == "loan_id"
    assert pipeline.sources["events"].timestamp == "applied_at"
    fields = pipeline.sources["events"].fields
    assert fields["sex"].protected
    assert fields["repaid"].values == ("no", "yes")
    assert (pipeline.target.type, pipeline.target.positive) == ("binary", "yes")
    assert set(pipeline.audit.groups) == {"age", "sex"}
    assert list(pipeline.resolved_features()) == ["amount"]


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("id,at", "1,2026-01-01", "no column besides its id and its time that could be learned"),
        ("id,at,ok", "", "no row to learn from"),
    ],
)
def test_what_no_pipeline_can_be_guessed_from_is_said(
    tmp_path: Path, header: str, row: str, said: str
) -> None:
    path = tmp_path / "loans.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(Invalid, match=said):
        file_of(path)


@pytest.mark.parametrize(
    ("column", "cell", "guessed"),
    [
        ("created_at", "1769860800", "created_at"),
        ("amount", "1769860800", "published_at"),
        ("birth_date", "1980-01-01", "published_at"),
        ("when", "2026-01-01 12:00:00", "when"),
    ],
)
def test_when_the_event_was_is_guessed(tmp_path: Path, column: str, cell: str, guessed: str) -> None:
    path = tmp_path / "loans.csv"
    path.write_text(
        f"loanId,{column},income,ok\n" + "".join(f"{i},{cell},{i},{i % 2 == 0}\n" for i in range(9))
    )
    pipeline = read(file_of(path))
    assert (pipeline.key, pipeline.sources["events"].timestamp) == ("loanId", guessed)


@pytest.mark.parametrize("answers", [("yes", "no"), tuple(f"{n / 7}" for n in range(12))])
def test_a_file_without_gates_says_the_two_ways_out(tmp_path: Path, answers: tuple[str, ...]) -> None:
    """A dozen rows are too few for a quality gate, and nobody is protected."""
    path = tmp_path / "few.csv"
    rows = [f"{i},{i * 3},{answers[i % len(answers)]}\n" for i in range(12)]
    path.write_text("loan_id,amount,ok\n" + "".join(rows))
    text = file_of(path)
    assert not read(text).audit.gates
    assert not read(text).serves_unjudged
    named, allowed = re.findall(r"  # (?:Either|or) .*:  (.+)", text)
    assert read(text.replace("  gates: []", f"  {named}")).audit.gates
    assert read(f"{text}{allowed}\n").serves_unjudged


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=3, max_size=6, unique=True
    ),
    st.data(),
)
def test_whatever_the_names_and_values_a_guess_is_yaml_that_says_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("guess") / "a.jsonl"
    cell = st.one_of(
        st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    )
    lines = [{name: data.draw(cell) for name in names} for _ in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        text = file_of(path)
    except Invalid:
        assume(False)
    said = YAML(typ="safe").load(text)
    source = said["sources"]["events"]
    assert {*source["fields"], source["id"], source["timestamp"]} >= set(names)


# -- times in a form that is not read ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "form", "shown"),
    [
        ("{month}/{day}/2017 18:05", "month, day, year", "2017-01-01T18:05:00"),
        ("{day}.{month}.17", "day, month, year", "2017-01-01T00:00:00"),
        ("{month}/{day}/2017 6:05 PM", "month, day, year", "2017-01-01T18:05:00"),
        ("{month}/{month}/2017", "day and month, in whichever order", "2026-01-31T18:05:00"),
        ("2017/{month}/{day}", "year, month, day, not joined by `-`", "2026-01-31T18:05:00"),
        ("{day}-Jan-2017", "with the month's name", "2026-01-31T18:05:00"),
        ("Jan {day}, 2017", "with the month's name", "2026-01-31T18:05:00"),
    ],
)
def test_times_in_a_form_that_is_not_read_are_told_and_no_input(
    tmp_path: Path, written: str, form: str, shown: str
) -> None:
    path = tmp_path / "stops.csv"
    with path.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["number", "when", "beat", "searched"])
        for n in range(ROWS):
            moment = written.format(day=n % 28 + 1, month=n % 12 + 1)
            lines.writerow([f"S-{n}", moment, n % 7, ("yes", "no")[n % 3 == 0]])
    found = first(read_table(path), Answers(target="searched"))
    (when,) = (one for one in found.guess.fields if one.name == "when")
    assert f"looks like times in a form that is not read ({form})" in when.left_out
    assert f"`{shown}`" in when.left_out
    assert "`when` is in a form that is not read" in found.text
    assert "no column says when" not in found.text
    assert not re.search(r"when: .*free text", found.text)
    assert [one.name for one in found.guess.inputs()] == ["beat"]
    assert "when" not in read(found.text, "stops.yaml").resolved_features()


@pytest.mark.parametrize(
    "texts",
    [
        ["1/2/2017", "soon"],
        ["1.2.3.4"],
        ["31/31/2017"],
        ["12-Mai-17 x"],
        ["a b"],
        [],
        ["45.10.22"],
        ["62.01.11", "12.01.11"],
        ["00.10.22"],
        ["2017/45/01"],
        ["31 Decker 12"],
        ["99 December 12"],
        ["Marching 1, 2017"],
    ],
)
def test_what_only_resembles_times_is_none(texts: list[str]) -> None:
    assert unread(texts) == ""


@pytest.mark.parametrize(("ahead", "century"), [(-1, 2000), (0, 2000), (1, 1900), (20, 1900)])
def test_a_year_of_two_digits_is_not_still_to_come(ahead: int, century: int) -> None:
    year = (datetime.now(UTC).year + ahead) % 100
    assert f"as `{century + year}-12-31T00:00:00`" in unread([f"31.12.{year:02}"])


# -- comments that are followed ---------------------------------------------------------------------


def test_what_a_comment_says_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "stops.csv"
    with path.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["number", "when", "area", "searched"])
        for n in range(ROWS):
            area = ("Unknown", "north", "south", "east")[n % 4]
            moment = f"2026-01-{n % 28 + 1:02}T00:00:00Z"
            lines.writerow([f"S-{n}", moment, area, ("yes", "no")[n % 3 == 0]])
    text = first(read_table(path), Answers(target="searched")).text
    asked = "a gap? Then name it in `missing`, take it out of every `values`, leave out `required`"
    assert asked in text
    assert "split: {by: time}" in text
    followed = re.sub(r"\[Unknown, |, Unknown", lambda gap: gap[0][0] if gap[0][0] == "[" else "", text)
    followed = re.sub(r"(area: .*?), required: true", r"\1", followed)
    followed = followed.replace("    fields:\n", "    missing: [Unknown]\n    fields:\n")
    pipeline = read(followed + "split: {by: time}\n", "stops.yaml")
    assert pipeline.split is not None
    assert pipeline.sources["events"].missing == ("Unknown",)
    assert pipeline.field("events.area").values == ("east", "north", "south")


@pytest.mark.parametrize("named", ["", "Unnamed: 0", "index", "rownames"])
@pytest.mark.parametrize("case", ["case_no", ""])
def test_a_rows_place_in_its_file_names_no_case(tmp_path: Path, named: str, case: str) -> None:
    """As pandas writes it with its index, which begins anew in the next file; `case`: there is an id."""
    path, draw = tmp_path / "stops.csv", random.Random(3)
    rows = [f"{n},{n * 7919 % 100_003 + 100},{draw.choice('ab')},{draw.choice('ny')}" for n in range(60)]
    path.write_text("\n".join([f"{named},{case or 'size'},kind,released", *rows]) + "\n")
    found = first(read_table(path))
    source = read(found.text).sources["events"]
    assert (source.id, source.columns.get("row")) == ((case, None) if case else ("row", "$row_content"))
    place = next(one for one in found.guess.fields if one.column.name == named)
    assert "as the index of the table that was written" in place.left_out
    declared = source.fields[place.name]
    assert (declared.range, declared.required) == (None, False), "a longer file fits, and one without it"
    published = list(rows_of(path, source))
    assert not list(compared(published, source, read(found.text).key)), "and the file fits"
    assert {place.name: 1}.items() <= published[1].items()


def test_an_id_that_counts_the_rows_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "stops.csv"
    path.write_text("case_id,kind,released\n" + "".join(f"{n},{'abc'[n % 3]},{n % 2}\n" for n in range(60)))
    table = read_table(path)
    assert (
        "id: case_id  # names the event: a repeat of it is dropped. It counts rows: does" in first(table).text
    )
    of_content = read(first(table, Answers(id="")).text).sources["events"]
    assert of_content.columns[of_content.id] == "$row_content"
    path.write_text(
        "case_id,kind,released\n" + "".join(f"{n * n},{'abc'[n % 3]},{n % 2}\n" for n in range(60))
    )
    assert "It counts rows" not in file_of(path)


def test_the_page_names_an_id_as_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "stops.csv"
    path.write_text(",kind,released\n" + "".join(f"c-{n * n},{'abc'[n % 3]},{n % 2}\n" for n in range(60)))
    page = report(first(read_table(path)))
    assert "A row is named by <strong>column_1</strong>, is about <strong>column_1</strong>" in page


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        (["3.050,00", "1.234.567,5", "12,5"], "write `3.050,00` as `3050.00`"),
        (["12", "-1,234.50", "9"], "write `-1,234.50` as `-1234.50`"),
        (["1'200", "300", "4'510"], "write `1'200` as `1200`"),
        (["1.234", "2.500", "0.125"], ""),
        (["3.050,00", "a few", "12"], ""),
        (["1.2.2024", "3.4.2024", "5.6.2024"], ""),
    ],
)
def test_numbers_with_marks_between_thousands_are_no_category(
    tmp_path: Path, amounts: list[str], said: str
) -> None:
    path = tmp_path / "claims.csv"
    path.write_text(
        "amount;size;ok\n" + "".join(f"{amounts[n % 3]};{n * 7 % 30};{n % 2}\n" for n in range(60))
    )
    found = first(read_table(path), Answers(target="ok"))
    amount = next(one for one in found.guess.fields if one.name == "amount")
    assert (said in amount.left_out) if said else ("thousands" not in amount.left_out)
    assert read(found.text).sources["events"].columns["published_at"] == "$publishing_time"


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (["1,057.5"], "number"),
        (["1,057.5", "<5"], "number"),
        (["1,057.5", "<5", "12 -"], "category"),
        (["C57"], "category"),
    ],
)
def test_a_few_cells_that_are_no_number_leave_the_column_one(
    tmp_path: Path, odd: list[str], kind: str
) -> None:
    path = tmp_path / "tests.csv"
    cells = [*odd, *(str(n % 30 / 2) for n in range(120))]
    rows = (f"{'ab'[n % 2]};{cell};{n % 2}\n" for n, cell in enumerate(cells))
    path.write_text("kind;amount;ok\n" + "".join(rows))
    text = first(read_table(path), Answers(target="ok")).text
    field = read(text).sources["events"].fields["amount"]
    assert (field.type == "number") == (kind == "number")
    said = f"no number in {len(odd)} of the rows looked at, as `1,057.5`: missing there" in text
    assert (said, field.on_violation == "set_missing") == (kind == "number",) * 2
    assert not (said and field.required)


@pytest.mark.parametrize(("name", "step"), [("order_id", 1), ("order_id", 5), ("reading", 7), ("ref", 1)])
def test_one_odd_cell_makes_no_input_of_an_id(tmp_path: Path, name: str, step: int) -> None:
    path = tmp_path / "orders.csv"
    cells = [f"{1000 + n * 7 // step * step}" for n in range(200)]
    cells[5] = "1035-2"
    path.write_text(
        f"{name},size,ok\n" + "".join(f"{cell},{n * 7 % 31},{n % 2}\n" for n, cell in enumerate(cells))
    )
    guess = first(read_table(path), Answers(target="ok")).guess
    assert guess.id is not None
    assert guess.id.name == name
    assert [one.name for one in guess.inputs()] == ["size"]


def test_a_dash_among_words_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "tests.csv"
    path.write_text(
        "ward;size;ok\n" + "".join(f"{['a', '-', 'b'][n % 3]};{n % 7};{n % 2}\n" for n in range(90))
    )
    assert (
        "`-` (30 times): a gap? Then name it in `missing`"
        in first(read_table(path), Answers(target="ok")).text
    )


def test_no_cell_of_a_personal_column_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    phones = [*(str(660_000_000 + n // 2) for n in range(300)), "+43 664 1112223"]
    people = [*(f"Pat {'abcdefghijklmnopqrstuvwxyz'[n % 26] * 5}" for n in range(300)), "Maria Hubr"]
    people[:100] = ["Maria Huber"] * 100
    rows = (
        f"{n * 7 % 30 / 2};{phone};{name};{n % 2}\n"
        for n, (phone, name) in enumerate(zip(phones, people, strict=True))
    )
    path.write_text("size;phone;name;ok\n" + "".join(rows))
    text = first(read_table(path), Answers(target="ok")).text
    fields = read(text).sources["events"].fields
    assert (fields["phone"].personal, fields["name"].personal) == (True, True)
    assert "no number in 1 of the rows looked at: missing there" in text
    assert not [cell for cell in {*phones, *people} if cell in text]


def test_a_word_that_is_as_good_as_another_is_asked_about(tmp_path: Path) -> None:
    words = ["female", "male"] * 100 + ["femal", "Male"] * 2
    path = tmp_path / "tests.csv"
    rows = (f"{n * 7 % 30};{word};{'F' if n % 2 else 'M'};{n % 2}\n" for n, word in enumerate(words))
    path.write_text("size;gender;ward;ok\n" + "".join(rows))
    lines = first(read_table(path), Answers(target="ok")).text.splitlines()
    gender, ward = (next(one for one in lines if f" {name}: {{type" in one) for name in ("gender", "ward"))
    assert "is `femal` (2 times) `female`, `Male` (2 times) `male`? Then mend the rows" in gender
    assert "mend the rows" not in ward


def test_a_rare_word_is_not_written_where_its_column_is_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "tests.csv"
    path.write_text(
        "size;ward;ok\n"
        + "".join(f"{n % 7};{'northren' if n == 5 else 'northern'};{n % 2}\n" for n in range(90))
    )
    text = first(read_table(path), Answers(target="ok")).text
    assert "1 of the rows looked at have a rare text that is nearly a frequent one: mend them?" in text
    assert "northren" not in text
