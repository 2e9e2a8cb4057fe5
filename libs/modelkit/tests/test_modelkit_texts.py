"""Texts read in their order: words as the rule written out in Python says, and layers over them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_suite import keeps_its_promises, pipeline
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid
from penstock.modelkit.attribution import attributions
from penstock.modelkit.build import build
from penstock.modelkit.features import WordNumbers, transform
from penstock.modelkit.graph import INT64, STRING, Graph, Runner
from penstock.modelkit.model import TOLERANCE
from penstock.modelkit.network import Layers, Shape, Tensors
from penstock.modelkit.preprocessing import TextSequence, fit
from penstock.modelkit.rows import signature
from penstock.modelkit.sequences import FULL_WIDTH, Reading, has_characters, numbered, read_texts
from penstock.modelkit.texts import Convolutions, text_parts
from penstock.modelkit.texts import Reading as ReadingNetwork
from penstock.modelkit.words import SEPARATORS
from penstock.packages.parts import Bars

odd = st.sampled_from(
    list("abÉßİΣΔя日本車のツ가나ﬁ🙂é\u0301\u200d\u00a0 \t\n.,;:!?()[]\"/'-_。、，！Ａ１　\U00020000")
)
any_text = st.text(
    st.one_of(odd, st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=40
)
CNN: dict[str, Any] = {"encode": "text_cnn", "dimension": 8, "filters": 6, "min_count": 1, "dropout": 0.2}
FLAT = {**CNN, "widths": [3], "pool": "flatten", "words": 7}
AVERAGE = {"encode": "text_average", "dimension": 8, "min_count": 1}
QUICK: dict[str, Any] = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}


def words_of(text: str, reading: Reading) -> list[str]:
    """The rule, written out."""
    # One character for one; İ, which Python makes two of, is i.
    lowered = "".join("i" if each == "İ" else each.lower() for each in text)
    words = [word for word in lowered.split(" ") if word][: reading.words]
    for separator in (*SEPARATORS, *(FULL_WIDTH if reading.characters else ())):
        words = [piece for word in words for piece in word.split(separator)]
    if reading.characters:
        words = [piece for word in words for piece in re.split("(?=[\u3000-\u9fff\uff00-\uff3f])", word)]
    return [word for word in words if word][: reading.words]


@settings(max_examples=60, deadline=None)
@given(column=st.lists(any_text, max_size=10), most=st.sampled_from([1, 3, 256]))
@example(column=["日本語のテキスト。", "iPhoneを買った", "用iPhone拍", "Ａ！ｂ１"], most=256)
def test_the_graph_reads_words_as_said(column: list[str], most: int) -> None:
    texts = np.array(column, dtype=object)
    for characters in {False, has_characters(texts)}:
        reading = Reading(most, characters)
        assert read_texts(texts, reading) == [words_of(text, reading) for text in column]


def test_every_character_has_one_small_letter_and_begins_a_word_as_said() -> None:
    characters = [chr(code) for code in range(1, 0x110000) if unicodedata.category(chr(code)) != "Cs"]
    texts = np.array(
        [f"a{''.join(characters[at : at + 200])}b" for at in range(0, len(characters), 200)], object
    )
    reading = Reading(1024, True)
    assert read_texts(texts, reading) == [words_of(text, reading) for text in texts]


@settings(max_examples=30, deadline=None)
@given(column=st.lists(any_text, min_size=1, max_size=8))
def test_numbers_say_the_words_in_their_order(column: list[str]) -> None:
    reading, texts = Reading(20, True), np.array(column, dtype=object)
    words = read_texts(texts, reading)
    vocabulary = ("no word", *sorted({word for each in words for word in each})[::2])
    graph = Graph()
    flat = graph.op("Reshape", graph.input("strings", STRING, ["N", 1]), graph.constant([-1], np.int64))
    graph.output(numbered(graph, flat, vocabulary, reading), "numbers", INT64, ["N", "longest"])
    found = Runner(graph.build("numbers"))(np.empty((0, 0)), texts[:, None])["numbers"]
    longest = max(1, *map(len, words))
    known = {word: index for index, word in enumerate(vocabulary, start=1)}
    expected = [[known.get(word, len(known) + 1) for word in each] for each in words]
    assert found.tolist() == [each + [0] * (longest - len(each)) for each in expected]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"type": "mlp"}, CNN),
        ({"type": "mlp"}, AVERAGE),
        ({"type": "linear"}, FLAT),
        ({"type": "wide_deep"}, CNN),
        ({"type": "tabm", "k": 4, "hidden": [16]}, CNN),
        ({"type": "ft_transformer", "d": 16, "blocks": 1, "heads": 2}, CNN),
    ],
    ids=lambda each: each.get("type") or f"{each['encode']}",
)
def test_a_family_with_a_text_keeps_its_promises(
    tmp_path: Path, model: dict[str, Any], text: dict[str, Any]
) -> None:
    keeps_its_promises(pipeline(model, text=text, trainer={**QUICK, "epochs": 3, "batch_size": 64}), tmp_path)


@pytest.mark.parametrize("text", [CNN, FLAT, AVERAGE], ids=["cnn", "flat", "average"])
def test_words_alone_are_learned_from(world: Any, text: dict[str, Any]) -> None:
    """`not good` is not `good`: only the order tells, and an average cannot."""
    words = {True: "good , and not bad", False: "bad , and not good"}
    columns = {"t": [f"{'so ' * (row // 2 % 4)}{words[row % 2 == 0]}" for row in range(160)]}
    labels = [row % 2 == 0 for row in range(160)]
    files = [world.part(part, columns, labels) for part in ("train", "validation")]
    small = {**text, "words": 10} if "words" in text else text
    spec = world.pipeline({"t": "text"}, {"t": small}, model={"type": "linear"}, trainer=QUICK)
    built = build(spec, *files)
    assert built.parity <= TOLERANCE
    assert (built.metrics["log_loss"] > 0.69) == (text is AVERAGE)
    assert (built.metrics["auroc"] == 1.0) == (text is not AVERAGE)


def test_a_text_has_no_share_in_its_neighbours_columns(world: Any, rows: Any) -> None:
    spec = world.pipeline({"t": "text"}, {"t": CNN})
    fitted = fit(spec, signature(spec, ("false", "true")), rows((), [["a b c d", "b"]]))
    (part,) = text_parts(fitted.strings)
    assert isinstance(part, Convolutions)
    alone = torch.tensor([[1, 2]])
    beside = torch.tensor([[1, 2, 0, 0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3, 3, 3, 3]])
    part.eval()
    torch.testing.assert_close(part(alone)[0], part(beside)[0])
    assert part(torch.zeros(1, 1, dtype=torch.int64)).shape == (1, part.width)


def test_an_unknown_word_is_the_average_where_training_had_none(world: Any, rows: Any) -> None:
    spec = world.pipeline({"t": "text"}, {"t": AVERAGE})
    fitted = fit(spec, signature(spec, ("false", "true")), rows((), [["a a a b", "b"]]))
    (words,) = fitted.strings
    assert isinstance(words, TextSequence)
    assert (words.words, words.counts) == (("a", "b"), (3, 2, 0))
    (part,) = text_parts(fitted.strings)
    with torch.no_grad():
        part.average_unseen()
    torch.testing.assert_close(
        part.table.weight[3], (3 * part.table.weight[1] + 2 * part.table.weight[2]) / 5
    )
    assert not part.table.weight[0].any()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["", "", ""], "features.t: the field `rows.t` is missing in all 3 training rows"),
        (
            [" ", "\n", " . "],
            "features.t.min_count: no word of `rows.t` occurs 2 times in the 3 training rows",
        ),
        (["one", "two", "three"], "features.t.min_count: no word of `rows.t` occurs 2 times"),
        (["w" * 101] * 3, "features.t.min_count: no word of `rows.t` occurs 2 times"),
    ],
)
def test_texts_without_words_are_a_sentence(world: Any, rows: Any, texts: list[str], said: str) -> None:
    spec = world.pipeline({"t": "text"}, {"t": {"encode": "text_cnn"}})
    with pytest.raises(Invalid) as caught:
        fit(spec, signature(spec, ("false", "true")), rows((), [texts]))
    assert said in str(caught.value)


def test_one_word_a_text_is_enough(world: Any) -> None:
    columns, labels = {"t": ["yes", "no"] * 40}, [True, False] * 40
    files = [world.part(part, columns, labels) for part in ("train", "validation")]
    spec = world.pipeline({"t": "text"}, {"t": {"encode": "text_cnn"}}, trainer={**QUICK, "epochs": 3})
    built = build(spec, *files)
    assert built.metrics["auroc"] == 1.0


@pytest.mark.parametrize(
    "long", ["word " * 200_000, "x" * 1_000_000, "日本" * 500_000, "a,b. " * 200_000, "\n" * 1_000_000]
)
def test_a_text_of_a_million_characters_is_read_from_its_beginning(world: Any, rows: Any, long: str) -> None:
    spec = world.pipeline({"t": "text"}, {"t": {"encode": "text_average"}})
    fitted = fit(spec, signature(spec, ("false", "true")), rows((), [[long, "a b a b"]]))
    found = transform(fitted, rows((), [[long, "a"]]), lambda features: features.tensors(pieces=False))
    numbers = found["sequence0"]
    assert isinstance(numbers, WordNumbers)
    assert numbers.starts[1] <= 256
    assert len(numbers.numbers) == numbers.starts[1] + 1


@pytest.mark.parametrize("text", [CNN, FLAT, AVERAGE], ids=["cnn", "flat", "average"])
def test_words_share_what_they_change_together(world: Any, rows: Any, text: dict[str, Any]) -> None:
    """Completeness of integrated gradients, and 0 for what is no word."""
    spec = world.pipeline({"t": "text", "u": "text"}, {"t": text, "u": AVERAGE})
    part = rows((), [["a b c d", "b", ""], ["x", "", "y x"]])
    fitted = fit(spec, signature(spec, ("false", "true")), part)
    torch.manual_seed(3)
    texts = text_parts(fitted.strings)
    made = Shape(fitted.strings, sum(each.width for each in texts), 1)
    network = ReadingNetwork(texts, Layers(made))
    batch = Tensors.of(transform(fitted, part, lambda features: features.tensors(pieces=False))).batch(
        torch.arange(3)
    )
    shares = attributions(network, batch, 0)
    with torch.no_grad():
        dense, buckets, *numbers = batch
        change = network(*batch) - network(dense, buckets, *(torch.zeros_like(each) for each in numbers))
    together = sum(share.sum(dim=1) for share in shares)
    torch.testing.assert_close(together, change[:, 0], atol=0.02 * float(change.abs().max()), rtol=0)
    for share, each in zip(shares, numbers, strict=True):
        assert not share[each == 0].any()


def test_the_words_that_speak_for_an_answer_are_shown(world: Any) -> None:
    columns = {"t": [f"it is {('good', 'bad')[row % 2]} n{row}" for row in range(120)]}
    labels = [row % 2 == 0 for row in range(120)]
    files = [world.part(part, columns, labels) for part in ("train", "validation")]
    spec = world.pipeline({"t": "text"}, {"t": AVERAGE}, model={"type": "linear"}, trainer=QUICK)
    told = build(spec, *files).description
    (picture,) = told.pictures
    assert isinstance(picture, Bars)
    assert picture.title == "Words of `t` for and against the logit of `y` = true"
    assert (picture.bars[0].name, picture.bars[-1].name) != ("bad", "good")
    values = {bar.name: bar.value for bar in picture.bars}
    assert max(values, key=values.__getitem__) == "good"
    assert min(values, key=values.__getitem__) == "bad"
    assert not any(name.startswith("n") for name in values), "a word of one text is nobody's business"
    limit = "Of `t` it reads the first 256 words and knows 124; all others are one unknown word."
    assert told.limits[-1] == limit
