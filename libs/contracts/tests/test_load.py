"""A pipeline file with any mistake: line, column, key, the nearest right name. Each case is a bad
fixture that must fail as told.
"""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.load import BadPipeline, read, read_data
from penstock.contracts.pipeline import BoostedTrees, Pipeline

GOOD = """\
version: 1
pipeline: credit-risk
entities:
  applicant: {key: applicant_id}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: submitted_at
    deduplicate: 7d
    fields:
      income: {type: number, unit: USD/month, range: [0, 1000000], required: true}
      purpose: {type: category, values: [home, car, other], on_violation: set_missing}
      note: {type: text}
      sex: {type: category, personal: true, protected: true}
      defaulted: {type: boolean}
features:
  income: {from: applications.income, clip: [p01, p99]}
  purpose: {from: applications.purpose, encode: one_hot}
targets:
  default: {from: applications.defaulted, type: binary, positive: true}
split: {by: applicant, parts: {train: 0.6, validation: 0.1, audit: 0.3}}
training: {seed: 7}
trainer: {epochs: 5, optimizer: {learning_rate: 1e-3}}
audit:
  groups: {sex: {min_rows: 30}}
  gates:
    - {metric: auroc, at_least: 0.7}
    - {metric: equalized_odds_difference, by: sex, at_most: 0.1}
"""


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(BadPipeline) as caught:
        read(text)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("right", "wrong", "line", "key", "said"),
    [
        (
            "from: applications.income",
            "from: applications.incom",
            18,
            "features.income.from",
            "did you mean `applications.income`?",
        ),
        ("income: {from", "income: {form", 18, "features.income.form", "did you mean `from`?"),
        ("trainer: {", "traner: {", 24, "traner", "did you mean `trainer`?"),
        ("epochs: 5", "epohs: 5", 24, "trainer.epohs", "did you mean `epochs`?"),
        ("at_least: 0.7", "at_most: 0.7", 28, "audit.gates[0].at_most", "use `at_least`"),
        ("by: sex,", "by: sexx,", 29, "audit.gates[1].by", "did you mean `sex`?"),
        ("deduplicate: 7d", 'missing: [NA, ""]', 10, "sources.applications.missing", "each mark once"),
        ("deduplicate: 7d", "missing: [car]", 13, "sources.applications.fields.purpose.values", "one of the"),
        ("deduplicate: 7d", "timezone: Vienna", 10, "sources.applications.timezone", "no time zone `Vienna`"),
        (
            "deduplicate: 7d",
            "columns: {submited_at: when}",
            10,
            "sources.applications.columns.submited_at",
            "did you mean `submitted_at`?",
        ),
        (
            "deduplicate: 7d",
            "columns: {applicant_id: $publishing_time}",
            10,
            "sources.applications.columns.applicant_id",
            "is for the timestamp",
        ),
        (
            "deduplicate: 7d",
            "columns: {submitted_at: $row_content}",
            10,
            "sources.applications.columns.submitted_at",
            "is no time",
        ),
        (
            "note: {type: text}",
            "note: {type: text, from: income}",
            14,
            "sources.applications.fields.note",
            "read from the column `income`, too",
        ),
        ("deduplicate: 7d", "deduplicate: 7 weeks", 10, "sources.applications.deduplicate", "is no duration"),
        (
            "entity: applicant",
            "entity: aplicant",
            7,
            "sources.applications.entity",
            "did you mean `applicant`?",
        ),
        ("encode: one_hot", "encode: text_cnn", 19, "features.purpose.encode", "a category field takes"),
        ("encode: one_hot", "encode: bag_of_words", 19, "features.purpose.encode", "a category field takes"),
        ("clip: [p01, p99]", "clip: [p99, p01]", 18, "features.income.clip", "below the upper one"),
        ("clip: [p01, p99]", "encode: one_hot", 18, "features.income.encode", "does not fit a number field"),
        (
            "from: applications.income",
            "from: applications.defaulted",
            18,
            "features.income.from",
            "a model must not see it",
        ),
        (
            "training: {seed: 7}",
            "training: {workers: 4}\nmodel: {type: boosted_trees}",
            23,
            "training.workers",
            "`boosted_trees` is trained by one worker",
        ),
        ("seed: 7", "workers: autp", 23, "training.workers", "did you mean `auto`?"),
        ("seed: 7", "workers: 0", 23, "training.workers", "from 1 to 64, or `auto`, not 0"),
        (
            "training: {seed: 7}",
            "training: {accelerator: gpu}\nmodel: {type: boosted_trees}",
            23,
            "training.accelerator",
            "`boosted_trees` is trained on a CPU",
        ),
        (
            "training: {seed: 7}",
            "training: {precision: bf16}\nmodel: {type: boosted_trees}",
            23,
            "training.precision",
            "`boosted_trees` is no network",
        ),
        (
            "training: {seed: 7}",
            "training: {compile: cudagraphs, accelerator: cpu}\nmodel: {type: mlp}",
            23,
            "training.compile",
            "a CPU records no graphs",
        ),
        (
            "trainer: {epochs: 5, optimizer: {learning_rate: 1e-3}}",
            "model: {type: boosted_trees}\ntrainer: {gradient_accumulation: 2}",
            25,
            "trainer.gradient_accumulation",
            "`boosted_trees` is not trained by `gradient_accumulation`",
        ),
        ("seed: 7", "seed: seven", 23, "training.seed", "not 'seven'"),
        ("seed: 7", f"seed: 0x{'F' * 4000}", 23, "training.seed", "has more digits than a number may have"),
        ("note: {", "true: {", 14, "sources.applications.fields[True]", "this key is no text"),
        ("note: {", "null: {", 14, "sources.applications.fields.None", "this key is no text"),
        ("USD/month", "!x USD", 12, "sources.applications.fields.income.unit", "has a tag of YAML's"),
        ("USD/month", "!!binary aGk=", 12, "sources.applications.fields.income.unit", "as a bytes; write"),
        ("[home, car, other]", "!x [home]", 13, "sources.applications.fields.purpose.values", "has a tag"),
        ("home,", "2026-01-01T00:00:00Z,", 13, "sources.applications.fields.purpose.values[0]", "timestamp"),
        ("train: 0.6", "train: 0.7", 22, "split.parts", "add up to 1.1"),
        ("pipeline: credit-risk", "pipeline: stats", 2, "pipeline", "reserved"),
        ("pipeline: credit-risk", "pipeline: Credit", 2, "pipeline", "small letters"),
        (
            "type: number, unit",
            "type: integer, unit",
            12,
            "sources.applications.fields.income.type",
            "`integer` is not allowed",
        ),
        (
            "type: binary, positive: true",
            "type: regression",
            21,
            "targets.default.type",
            "needs a number field",
        ),
        ("sex: {min_rows: 30}", "sex: {bins: [1]}", 26, "audit.groups.sex.bins", "`bins` are for numbers"),
        ("version: 1", "version: 2", 1, "version", "`2` is not allowed"),
        ("audit:\n", "tuner: {executor: ray}\naudit:\n", 25, "tuner.executor", "processes of its own"),
        ("audit:\n", "edge: {fallback: {}}\naudit:\n", 25, "edge.fallback.when", "is missing"),
        (
            "audit:\n",
            "edge: {fallback: {when: mising}}\naudit:\n",
            25,
            "edge.fallback.when",
            "`mising` is not allowed; did you mean `missing`?",
        ),
        (
            "audit:\n",
            "edge: {fallback: {when: missing, withn: 1s}}\naudit:\n",
            25,
            "edge.fallback.withn",
            "no key `withn`; did you mean `within`?",
        ),
        (
            "audit:\n",
            "edge: {fallback: {when: missing, confidence_below: 0.6}}\naudit:\n",
            25,
            "edge.fallback.confidence_below",
            "the same answer would come back",
        ),
        ("audit:\n", "edge: {variants: [int8]}\naudit:\n", 25, "edge.variants", "serve the model as it is"),
        ("audit:\n", "monitor: {}\naudit:\n", 25, "monitor", "no monitor yet"),
        (
            "personal: true",
            "personal: no",
            15,
            "sources.applications.fields.sex.personal",
            "write true or false, not 'no'",
        ),
        ("epochs: 5", "epochs: true", 24, "trainer.epochs", "write a whole number, not True"),
        ("train: 0.6", "train: '0.6'", 22, "split.parts.train", "write a number, not '0.6'"),
        (
            "range: [0, 1000000]",
            "range: [0, .inf]",
            12,
            "sources.applications.fields.income.range[1]",
            "write a finite number",
        ),
        ("at_least: 0.7", "at_least: .nan", 28, "audit.gates[0].at_least", "write a finite number"),
        ("at_least: 0.7", "at_least: 70", 28, "audit.gates[0].at_least", "`auroc` lies from 0 to 1"),
        (
            "metric: auroc, at_least: 0.7",
            "metric: log_loss, at_most: -1",
            28,
            "audit.gates[0].at_most",
            "`log_loss` lies above 0",
        ),
        ("positive: true", "positive: maybe", 21, "targets.default.positive", "`maybe` never equals"),
        ("positive: true", "positive: 1", 21, "targets.default.positive", "`1` never equals"),
        ("deduplicate: 7d", "deduplicate: \uff17d", 10, "sources.applications.deduplicate", "is no duration"),
        ("deduplicate: 7d", "deduplicate: 0d", 10, "sources.applications.deduplicate", "for how long"),
        (
            "deduplicate: 7d",
            "deduplicate: 99999999999d",
            10,
            "sources.applications.deduplicate",
            "is longer than 36500d",
        ),
        ("deduplicate: 7d", "retention: 0d", 10, "sources.applications.retention", "nothing would be kept"),
        (
            "timestamp: submitted_at",
            "timestamp: application_id",
            9,
            "sources.applications.timestamp",
            "names the event or its entity",
        ),
        ("by: applicant", "by: aplicant", 22, "split.by", "did you mean `applicant`?"),
        (
            "training: {",
            "serving: {batch: {max_delay: 1h}}\ntraining: {",
            23,
            "serving.batch.max_delay",
            "at most 10s",
        ),
        (
            "training: {",
            "serving: {record_retention: 0d}\ntraining: {",
            23,
            "serving.record_retention",
            "no record would be kept",
        ),
        (
            "targets:\n",
            "targets:\n  second: {from: applications.purpose, type: multiclass}\n",
            20,
            "targets",
            "one target a pipeline",
        ),
        ("clip: [p01, p99]", "window: 7d", 18, "features.income.window", "no windows yet"),
        (
            "trainer: {",
            "model: {type: linear, hidden: [64, 32]}\ntrainer: {",
            24,
            "model.hidden",
            "` and means nothing with `type: linear`; there is `type`",
        ),
        (
            "trainer: {",
            "model:\n  type: linear\n  dropout: 0.1\ntrainer: {",
            26,
            "model.dropout",
            "`dropout` is for `type: mlp or ",
        ),
        ("trainer: {", "model: {hiden: [8]}\ntrainer: {", 24, "model.hiden", "did you mean `hidden`?"),
        ("trainer: {", "model: {type: liner}\ntrainer: {", 24, "model.type", "did you mean `linear`?"),
        ("trainer: {", "model: linear\ntrainer: {", 24, "model", "input should be an object"),
        (
            "{learning_rate: 1e-3}",
            "{momentum: 0.9}",
            24,
            "trainer.optimizer.momentum",
            "`momentum` is for `type: sgd` and means nothing with `type: adamw`; there is `type`, `learning",
        ),
        (
            "{learning_rate: 1e-3}",
            "{type: adam, momentum: 0.9}",
            24,
            "trainer.optimizer.momentum",
            "means nothing with `type: adam`",
        ),
        (
            "{learning_rate: 1e-3}",
            "{type: lion}",
            24,
            "trainer.optimizer.type",
            "`lion` is not allowed; there is `adamw`, `adam`, `sgd`",
        ),
        (
            "epochs: 5",
            "schedule: {type: constant, waermup: 0}",
            24,
            "trainer.schedule.waermup",
            "did you mean `warmup`?",
        ),
        (
            "encode: one_hot",
            "encode: one_hot, dimension: 4",
            19,
            "features.purpose.dimension",
            "`dimension` is for `encode: embedding or text_average or text_cnn` and means nothing with",
        ),
        (
            "encode: one_hot",
            "encode: embedding, vocabulary: 4",
            19,
            "features.purpose.vocabulary",
            "`vocabulary` is for `encode: bag_of_words or text_average or text_cnn`",
        ),
        ("encode: one_hot", "vocabulary: 4", 19, "features.purpose.vocabulary", "not fit a category field"),
        ("encode: one_hot", "encode: one_hott", 19, "features.purpose.encode", "did you mean `one_hot`?"),
        (
            "deduplicate: 7d",
            "format: cvs",
            10,
            "sources.applications.format",
            "`cvs` is not allowed; there is `json`",
        ),
        ("deduplicate: 7d", "format: {type: avro}", 10, "sources.applications.format.type", "`avro` is not"),
        (
            "deduplicate: 7d",
            "format: {delimiter: ','}",
            10,
            "sources.applications.format.delimiter",
            "no key `delimiter`; there is `type`",
        ),
        (
            "range: [0, 1000000], required: true",
            "required: true, on_violation: set_missing",
            12,
            "sources.applications.fields.income.on_violation",
            "never set missing",
        ),
        (
            "training: {",
            "decision: {threshold: {choose: fixed, value: 0.3, on: validation}}\ntraining: {",
            23,
            "decision.threshold.on",
            "chosen on no split",
        ),
        (
            "training: {",
            "promotion: {compare: none, max_drop: 0.1}\ntraining: {",
            23,
            "promotion.max_drop",
            "means nothing with `compare: none`",
        ),
    ],
)
def test_a_mistake_is_shown_where_it_was_made(right: str, wrong: str, line: int, key: str, said: str) -> None:
    assert right in GOOD
    found = problems(GOOD.replace(right, wrong, 1))
    assert any(at == line and name == key and said in message for at, name, message in found), found


def test_a_regression_has_no_classes_to_weigh() -> None:
    text = GOOD.replace("defaulted: {type: boolean}", "defaulted: {type: number}").replace(
        "type: binary, positive: true", "type: regression"
    )
    text = text[: text.index("\naudit:") + 1].replace("epochs: 5", "class_weights: balanced")
    assert problems(text) == [
        (24, "trainer.class_weights", "a regression has no classes to weigh; leave it out")
    ]
    assert read(text.replace("balanced", "none")).trainer.class_weights == "none"


def test_a_measure_must_fit_where_the_file_names_it_or_a_loss_in_its_unit() -> None:
    text = GOOD.replace("defaulted: {type: boolean}", "defaulted: {type: number}").replace(
        "type: binary, positive: true", "type: regression"
    )
    text = text[: text.index("\naudit:") + 1]
    assert not read(text + "promotion: {without_gates: allowed}\n").audit.gates
    for said in ("metric: auroc", "max_drop: 0.1", "without_gates: allowed, max_drop: 0.1"):
        assert [key for _, key, _ in problems(text + f"promotion: {{{said}}}\n")] == ["promotion.metric"]


def test_a_weight_is_a_number_of_its_own() -> None:
    for field, said in (
        ("incom", "no field `applications.incom`; did you mean `applications.income`?"),
        ("purpose", "a weight is a number; `applications.purpose` is category"),
        ("defaulted", "this is what is predicted; name another field"),
    ):
        found = problems(GOOD.replace("{seed: 7}", f"{{sample_weight: applications.{field}}}"))
        assert (23, "training.sample_weight", said) in found
    good = GOOD.replace("{seed: 7}", "{sample_weight: applications.income}")
    text = good[: good.index("features:")] + good[good.index("targets:") :]
    assert "income" not in read(text).resolved_features()
    assert "income" in read(good).resolved_features()  # named as a feature, it is one too


def test_an_interval_lies_between_two_quantiles() -> None:
    binary = GOOD.replace("positive: true", "positive: true, quantiles: [0.1, 0.9]")
    assert (21, "targets.default.quantiles", "`quantiles` are for a regression") in problems(binary)
    good = (
        binary.replace("{type: boolean}", "{type: number}")
        .replace("type: binary, positive: true", "type: regression")
        .partition("\naudit:")[0]
    )
    assert read(good).target.quantiles == (0.1, 0.9)
    for wrong in ("[0.9, 0.1]", "[0, 0.9]", "[0.5, 0.5]", "[1e-300, 0.9]", "[0.1, 0.9999999999999999]"):
        ((_, key, said),) = problems(good.replace("[0.1, 0.9]", wrong))
        assert (key, said) == (
            "targets.default.quantiles",
            "give two shares from 0.001 to 0.999, the lower one first",
        )
    trees = good + "\nmodel: {type: boosted_trees, monotone: {income: increasing}}\n"
    trees = trees.replace(", optimizer: {learning_rate: 1e-3}", "").replace(", clip: [p01, p99]", "")
    assert "cannot be held to `monotone`" in problems(trees)[0][2]
    gated = good + "\naudit: {gates: [{metric: coverage, at_least: 0.7}]}\n"
    assert read(gated)
    ((_, key, said),) = problems(gated.replace(", quantiles: [0.1, 0.9]", ""))
    assert key == "audit.gates[0].metric"
    assert said.startswith("`coverage` is about an interval: give the target `quantiles`")


def test_a_plateau_must_be_seen_before_training_ends() -> None:
    schedule = "schedule: {type: reduce_on_plateau, patience: 4}"
    text = GOOD.replace("epochs: 5", f"epochs: 5, {schedule}")
    ((_, key, said),) = problems(text)
    assert key == "trainer.schedule.patience"
    assert said.startswith("early stopping would end training before the rate falls")
    for mended in ("patience: 3", "patience: 4}, early_stopping: {patience: 6"):
        assert read(text.replace("patience: 4", mended))
    assert read(text.replace("epochs: 5", "early_stopping: null, epochs: 5"))


@pytest.mark.parametrize("said", ["json", "{type: json}", "{}"])
def test_a_source_says_how_its_events_are_written(said: str) -> None:
    assert read(GOOD.replace("deduplicate: 7d", f"format: {said}")) == read(
        GOOD.replace("deduplicate: 7d", "")
    )


def test_all_mistakes_are_shown_at_once() -> None:
    text = (
        GOOD.replace("income: {from", "income: {form")
        .replace("trainer:", "traner:")
        .replace("deduplicate: 7d", "deduplicate: x")
    )
    assert {10, 18, 24} <= {line for line, _, _ in problems(text)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is a mapping"),
        ("- a list", "is a mapping"),
        ("version: 1\n a: b\n  - c", "not YAML"),
        ("version: 1\nversion: 1", "duplicate key"),
        ("a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
         f"f: [{','.join(['*d'] * 26)}]", "aliases expanded"),
        ("x: " + "a" * 300_000, "larger than"),
        ("x: \ud800", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_no_pipeline_file_is_refused_in_words(text: str, said: str) -> None:
    assert any(said in message for _, _, message in problems(text))


def says_why(text: str) -> bool:
    """Whether the text is a pipeline, or is refused with at least one problem; anything else raises."""
    try:
        read(text)
    except BadPipeline as error:
        return bool(error.problems)
    return True


@given(st.text(max_size=200))
def test_no_text_makes_anything_but_a_pipeline_or_a_bad_pipeline(text: str) -> None:
    assert says_why(text)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(list("{}[]:,&*#!|>'\"%@` \n0a")))
def test_a_good_file_with_one_wrong_character_never_crashes(position: int, character: str) -> None:
    assert says_why(GOOD[:position] + character + GOOD[position + 1 :])


def test_yaml_1_2_reads_numbers_and_words() -> None:
    pipeline = read(GOOD.replace("sex: {type: category,", "no: {type: category,").replace("sex", "no"))
    assert pipeline.trainer.optimizer.learning_rate == 0.001
    assert "no" in pipeline.sources["applications"].fields


def test_data_comes_back_typed_and_equal() -> None:
    data = read_data(GOOD)
    assert Pipeline.model_validate(data) == read(GOOD)
    assert Pipeline.model_validate_json(read(GOOD).model_dump_json(by_alias=True)) == read(GOOD)


def test_features_that_are_not_named_are_all_that_may_be_seen() -> None:
    start, end = GOOD.index("features:"), GOOD.index("targets:")
    features = read(GOOD[:start] + GOOD[end:]).resolved_features()
    assert list(features) == ["income", "purpose", "note"]
    assert (features["income"].impute, features["purpose"].encode, features["note"].encode) == (
        "median",
        "embedding",
        "bag_of_words",
    )


def test_what_was_stored_is_read_less_strictly_than_what_is_written() -> None:
    """A release that grows stricter must go on with what an earlier one took."""
    assert problems(GOOD.replace("epochs: 5", "epochs: 5.0"))
    stored = read_data(GOOD)
    stored["trainer"] = {"epochs": 5.0}
    assert Pipeline.model_validate(stored).trainer.epochs == 5


def test_two_sources_fields_of_one_name_are_told_apart_by_hand() -> None:
    start, end = GOOD.index("features:"), GOOD.index("targets:")
    second = (
        "  visits:\n    entity: applicant\n    id: visit_id\n    timestamp: at\n    fields: {income: {type:"
        " number}}\n"
    )
    ((_, key, said),) = problems(GOOD[:start] + second + GOOD[end:])
    assert (key, said) == (
        "sources",
        "more than one source has a field `income`; name `features`, or rename one",
    )


def test_the_shortest_useful_file_has_ten_lines() -> None:
    text = """\
version: 1
pipeline: shortest
entities: {thing: {key: thing_id}}
sources:
  things:
    entity: thing
    id: thing_id
    timestamp: time
    fields: {size: {type: number}, good: {type: boolean}}
targets: {good: {from: things.good, type: binary}}
"""
    assert len(text.splitlines()) == 10
    assert list(read(text).resolved_features()) == ["size"]


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).resolve().parents[3].glob("examples/*/*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_are_good(path: Path) -> None:
    read(path.read_text(), str(path))


@pytest.mark.parametrize(
    "text",
    ["[" * 30_000, "{" * 30_000, "[\n" * 30_000, "# ]]]]\n" * 5_000 + "a: " + "[" * 30_000],
    ids=["on a line", "mappings", "on many lines", "behind closing ones"],
)
def test_brackets_without_end_are_refused_at_once(text: str) -> None:
    began = time.thread_time()
    with pytest.raises(BadPipeline, match="more than 100 brackets are open at once"):
        read(text)
    assert time.thread_time() - began < 1


ALIASES = "a0: &a0 {b: 1}\n" + "".join(f"a{n}: &a{n} {{*a{n - 1} : 1}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    "text",
    ["x:\n  " + "? " * 60 + "a\n", "x: " + "{" * 40 + "a" + ": 1}" * 40, ALIASES],
    ids=["on a line", "in brackets", "by aliases"],
)
def test_a_key_that_is_a_mapping_is_refused_at_once(text: str) -> None:
    """Each level of it took thrice as long: sixty would have taken for ever."""
    began = time.thread_time()
    with pytest.raises(BadPipeline, match="this key is a list or a mapping"):
        read(text)
    assert time.thread_time() - began < 1


def test_values_without_end_are_refused_soon() -> None:
    began = time.thread_time()
    with pytest.raises(BadPipeline, match="more than 20,000 values"):
        read("x: [" + "1," * 120_000 + "1]")
    assert time.thread_time() - began < 2


TREES = (
    GOOD.replace(", clip: [p01, p99]", "")
    .replace("trainer: {epochs: 5, optimizer: {learning_rate: 1e-3}}", "trainer: {epochs: 5}")
    .replace("training: {seed: 7}", "training: {seed: 7}\nmodel: {type: boosted_trees}")
)


@pytest.mark.parametrize(
    ("right", "wrong", "line", "key", "said"),
    [
        (
            "epochs: 5",
            "fairness: {notion: equalized_odds, by: sex}",
            25,
            "trainer.fairness",
            "`boosted_trees` is not trained by `fairness`",
        ),
        ("epochs: 5", "batch_size: 64", 25, "trainer.batch_size", "is not trained by `batch_size`"),
        (
            "boosted_trees}",
            "boosted_trees, hidden: [8]}",
            24,
            "model.hidden",
            "`hidden` is for `type: mlp or ",
        ),
        (
            "boosted_trees}",
            "boosted_trees, num_leaves: 1}",
            24,
            "model.num_leaves",
            "greater than or equal to 2",
        ),
        (
            "boosted_trees}",
            "boosted_trees, monotone: {incom: decreasing}}",
            24,
            "model.monotone.incom",
            "no feature `incom`; did you mean `income`?",
        ),
        (
            "boosted_trees}",
            "boosted_trees, monotone: {purpose: increasing}}",
            24,
            "model.monotone.purpose",
            "`purpose` is no number: its values have no order to rise in",
        ),
        (
            "boosted_trees}",
            "boosted_trees, monotone: {income: falling}}",
            24,
            "model.monotone.income",
            "`falling` is not allowed; there is `increasing`, `decreasing`",
        ),
        (
            "{type: boosted_trees}",
            "{type: mlp, monotone: {income: decreasing}}",
            24,
            "model.monotone",
            "`monotone` is for `type: boosted_trees` and means nothing with `type: mlp`",
        ),
        (
            "from: applications.income",
            "from: applications.income, impute: zero",
            18,
            "features.income.impute",
            "`boosted_trees` takes numbers as they are; leave `impute` out",
        ),
        (
            "one_hot",
            "embedding",
            19,
            "features.purpose",
            "takes no `embedding`; leave the feature out, or use",
        ),
        (
            "encode: one_hot}",
            "encode: one_hot}\n  note: {from: applications.note}",
            20,
            "features.note",
            "`boosted_trees` takes no `bag_of_words`; leave the feature out",
        ),
    ],
)
def test_what_trees_do_not_do_is_refused_by_name(
    right: str, wrong: str, line: int, key: str, said: str
) -> None:
    assert right in TREES
    found = problems(TREES.replace(right, wrong, 1))
    assert any(at == line and name == key and said in message for at, name, message in found), found


def test_a_text_is_not_told_to_be_what_only_a_category_can_be() -> None:
    text = TREES.replace("encode: one_hot}", "encode: one_hot}\n  note: {from: applications.note}", 1)
    told = "`boosted_trees` takes no `bag_of_words`; leave the feature out"
    assert problems(text) == [(20, "features.note", told)]


def test_a_constraint_is_for_a_target_that_can_rise() -> None:
    text = TREES[: TREES.index("audit:\n")].replace(
        "boosted_trees}", "boosted_trees, monotone: {income: decreasing}}"
    )
    several = text.replace("defaulted: {type: boolean}", "defaulted: {type: category}").replace(
        "type: binary, positive: true", "type: multiclass"
    )
    assert problems(several) == [
        (24, "model.monotone.income", "`monotone` is for a binary target or a regression")
    ]
    model = read(text).model
    assert isinstance(model, BoostedTrees)
    assert model.monotone == {"income": "decreasing"}


@pytest.mark.parametrize(
    ("crosses", "key", "said"),
    [
        ("[[purpose, owned], [owned, purpose]]", "model.crosses[1]", "this cross stands above"),
        ("[[purpose, purpose]]", "model.crosses[0]", "a cross is of different features"),
        ("[[purpose]]", "model.crosses[0]", "at least 2 items"),
        ("[[purpose, purpos]]", "model.crosses[0][1]", "no feature `purpos`; did you mean `purpose`?"),
        ("[[income, purpose]]", "model.crosses[0][0]", "`income` is no category"),
        ("[[purpose, note]]", "model.crosses[0][1]", "`note` is no category"),
    ],
)
def test_a_cross_is_of_categories(crosses: str, key: str, said: str) -> None:
    text = (
        GOOD.replace("training: {seed: 7}", f"model: {{type: wide_deep, crosses: {crosses}}}")
        .replace("      sex:", "      owned: {type: boolean}\n      sex:")
        .replace(
            "targets:", "  owned: {from: applications.owned}\n  note: {from: applications.note}\ntargets:"
        )
    )
    assert any(name == key and said in message for _, name, message in problems(text)), problems(text)


@pytest.mark.parametrize(
    ("model", "line", "key", "said"),
    [
        ("d: 30", 24, "model.d", "a token of 30 numbers has no 8 equal parts (`heads`)"),
        ("attention_dropout: 1", 24, "model.attention_dropout", "less than 1"),
        ("blocks: 0", 24, "model.blocks", "greater than or equal to 1"),
    ],
)
def test_a_transformer_of_no_shape_is_refused(model: str, line: int, key: str, said: str) -> None:
    text = GOOD.replace(
        "training: {seed: 7}", f"training: {{seed: 7}}\nmodel: {{type: ft_transformer, {model}}}"
    )
    assert [(line, key)] == [found[:2] for found in problems(text)]
    assert said in problems(text)[0][2]


def test_a_token_has_one_width() -> None:
    text = GOOD.replace("encode: one_hot", "encode: embedding, dimension: 3").replace(
        "training: {seed: 7}", "model: {type: ft_transformer}"
    )
    ((line, key, said),) = problems(text)
    assert (line, key) == (19, "features.purpose")
    assert said.startswith("`ft_transformer` takes no `embedding`; leave the feature out, or use ")


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ("widths: [3, 5], words: 4", "widths", "a filter over 5 words does not fit into `words: 4`"),
        ("filters: 400", "pool", "makes 303,600 columns of this text, at most 131,072 may be; lower `words`"),
        ("vocabulary: 0", "vocabulary", "greater than or equal to 1"),
        ("widths: []", "widths", "at least 1"),
        ("width: 3", "width", "did you mean `widths`?"),
        ("scale: none", "scale", "no key `scale`; there is"),
    ],
)
def test_a_text_read_in_its_order_has_its_limits(keys: str, key: str, said: str) -> None:
    head = f"features:\n  note: {{from: applications.note, encode: text_cnn, pool: flatten, {keys}}}\n"
    start, end = GOOD.index("features:"), GOOD.index("targets:")
    found = problems(GOOD[:start] + head + GOOD[end:])
    assert any(name == f"features.note.{key}" and said in message for _, name, message in found), found


@pytest.mark.parametrize(
    ("members", "trainer", "key", "said"),
    [
        ("[mlp]", "", "model.members", "two members or more"),
        ("[mlp, mpl]", "", "model.members[1]", "did you mean `mlp`?"),
        ("[mlp, ensemble]", "", "model.members[1]", "`ensemble` is not allowed"),
        ("[mlp, mlp]", "", "model.members[1]", "this member stands above"),
        ("[mlp, {type: ft_transformer, d: 30}]", "", "model.members[1].d", "has no 8 equal parts"),
        ("[mlp, {type: mlp, hiden: [8]}]", "", "model.members[1].hiden", "did you mean `hidden`?"),
        (
            "[{type: boosted_trees, monotone: {income: increasing}}, mlp]",
            "",
            "model.members[0].monotone",
            "`mlp` is not held to this",
        ),
        (
            "[mlp, boosted_trees]",
            "fairness: {notion: equalized_odds, by: sex}",
            "trainer.fairness",
            "`boosted_trees` is not trained by `fairness`",
        ),
    ],
)
def test_an_ensemble_does_what_all_its_members_do(members: str, trainer: str, key: str, said: str) -> None:
    text = GOOD.replace(", clip: [p01, p99]", "").replace(
        "training: {seed: 7}", f"model: {{type: ensemble, members: {members}}}"
    )
    text = text.replace("trainer: {epochs: 5", f"trainer: {{{trainer or 'epochs: 5'}")
    assert [(name, said in message) for _, name, message in problems(text)] == [(key, True)], problems(text)


def test_the_trainers_of_an_ensemble_are_judged_each_with_its_member() -> None:
    good = "[{epochs: 5, batch_size: 8}, {epochs: 70}, {epochs: 9}]"
    read(_ensemble(good))
    for trainers, key, said in (
        ("[{epochs: 5}]", "model.trainers", "give one for each of the 3 members, or none"),
        (good.replace("epochs: 9", "epochs: 5, batch_size: 8"), "model.members[2]", "stands above"),
        (good.replace("70", "70, batch_size: 8"), "model.trainers[1].batch_size", "is not trained by"),
        (good.replace("70", "70, ephocs: 8"), "model.trainers[1].ephocs", "did you mean `epochs`?"),
        (
            good.replace("9}", "9, fairness: {notion: equalized_odds, by: sxe}}"),
            "model.trainers[2].fairness.by",
            "`sxe` is no",
        ),
    ):
        found = problems(_ensemble(trainers))
        assert [(name, said in message) for _, name, message in found] == [(key, True)], found


def _ensemble(trainers: str) -> str:
    model = f"model: {{type: ensemble, members: [mlp, boosted_trees, mlp], trainers: {trainers}}}"
    return GOOD.replace(", clip: [p01, p99]", "").replace("training: {seed: 7}", model)


def test_an_ensemble_refuses_treatments_that_one_member_does_not_take() -> None:
    text = GOOD.replace("one_hot", "embedding").replace(
        "training: {seed: 7}", "model: {type: ensemble, members: [mlp, boosted_trees]}"
    )
    assert [key for _, key, _ in problems(text)] == ["features.income.clip", "features.purpose"]
    model = read(text.replace("boosted_trees", "linear")).model
    assert [member.type for member in model.members] == ["mlp", "linear"]  # type: ignore[union-attr]
