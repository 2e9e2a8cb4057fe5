"""The transformer: tokens for all kinds of features, no weight decay on them, and bounds on its cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from family_suite import keeps_its_promises, parts, pipeline

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Adam, Adamw, FtTransformer, Pipeline
from penstock.modelkit.build import build
from penstock.modelkit.families.ft_transformer import Tokens, Transformer
from penstock.modelkit.network import Shape, Tensors
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.preprocessing import Category, Text

SMALL: dict[str, Any] = {"type": "ft_transformer", "d": 16, "blocks": 2, "heads": 4}
QUICK: dict[str, Any] = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.01}}
STRINGS = (
    Category("c", ("a", "b"), (3, 40, 37, 0), None),
    Category("e", ("x",), (0, 70, 10), 2),
    Text("t", ("good", "bad"), (9, 3), (1.0, 2.0), False),
)


def transformer(**keys: Any) -> Transformer:
    torch.manual_seed(1)
    return Transformer(Shape(STRINGS, 5, 1), FtTransformer(**{**SMALL, **keys}))


def test_every_feature_is_a_token() -> None:
    network = transformer()
    dense, buckets = torch.randn(6, 5), torch.zeros(6, 2, dtype=torch.int64)
    assert network.tokens(dense, buckets).shape == (6, 1 + 3 + 2 + 1, 16)
    changed = dense.clone()
    changed[:, 4] += 1  # the text's second word
    apart = (network.tokens(dense, buckets) != network.tokens(changed, buckets)).any(dim=2).any(dim=0)
    assert apart.tolist() == [False] * 6 + [True]


def test_a_value_that_training_never_saw_is_the_average_one() -> None:
    table = transformer().tokens.table.detach()
    known = torch.tensor([3.0, 40, 37]) / 80 @ table[:3]
    assert torch.allclose(table[3], known)
    assert torch.allclose(table[4], torch.tensor([70.0, 10]) / 80 @ table[5:])


def test_what_rows_say_of_a_value_is_added_up_alike_on_any_number_of_threads() -> None:
    """A run on several threads goes on to the same bits after a kill."""
    tokens = Tokens(Shape(STRINGS[:2], 5, 1), 64)
    dense, buckets = torch.randn(4096, 5), torch.randint(0, 3, (4096, 2))
    slopes = torch.randn(4096, tokens.count, 64)

    def added(threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        tokens.zero_grad()
        tokens(dense, buckets).backward(slopes)
        assert tokens.table.grad is not None
        return tokens.table.grad

    try:
        assert all(torch.equal(added(1), added(4)) for _ in range(5))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("spec", [Adamw(weight_decay=0.5), Adam(type="adam", weight_decay=0.5)])
def test_weight_decay_leaves_tokens_norms_and_biases_alone(spec: Adam | Adamw) -> None:
    network = transformer()
    spared = {id(parameter) for parameter in network.undecayed()}
    names = {name for name, parameter in network.named_parameters() if id(parameter) not in spared}
    assert {name.rpartition(".")[2] for name in names} == {"weight"}
    assert len(names) == 2 * (4 + 2) + 1  # attention and feed-forward of two blocks, the head
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    decays = [id(parameter) not in spared for parameter in network.parameters()]
    optimizer_of(network.parameters(), spec, decays).step(0.1)  # no gradients
    moved = {
        name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert moved == names


def test_dropouts_are_those_of_the_file() -> None:
    dense, buckets = torch.randn(64, 5), torch.zeros(64, 2, dtype=torch.int64)
    for key in ("attention_dropout", "ffn_dropout", "residual_dropout"):
        none = {"attention_dropout": 0, "ffn_dropout": 0, "residual_dropout": 0}
        for share, same in ((0.0, True), (0.5, False)):
            network = transformer(**{**none, key: share}).train()
            assert torch.equal(network(dense, buckets), network(dense, buckets)) is same, key


def test_rows_are_answered_alike_in_any_company() -> None:
    network = transformer()
    tensors = Tensors(torch.randn(30, 5), torch.zeros(30, 2, dtype=torch.int64), ())
    whole, one_by_one = network.predict(tensors), network.predict(tensors, chunk=1)
    assert whole.dtype == torch.float64
    assert (whole - one_by_one).abs().max() < 1e-12


@pytest.mark.parametrize("target", ["binary", "regression"])
def test_numbers_in_pieces_keep_its_promises(tmp_path: Path, target: str) -> None:
    model = {**SMALL, "blocks": 1, "numbers": "piecewise"}
    keeps_its_promises(pipeline(model, target, trainer={**QUICK, "epochs": 4}), tmp_path)


def test_a_token_in_pieces_begins_as_a_line_and_learns_where_it_bends() -> None:
    columns = (range(2, 2), range(2, 5))  # a constant, and a number of three pieces
    torch.manual_seed(1)
    plain = Tokens(Shape((), 2, 1, 2), 16)
    torch.manual_seed(1)
    bent = Tokens(Shape((), 5, 1, 2, columns), 16)
    dense, buckets = torch.rand(6, 5), torch.zeros(6, 0, dtype=torch.int64)
    assert torch.equal(plain(dense[:, :2], buckets), bent(dense, buckets))
    bent(dense, buckets).square().sum().backward()
    told = [weight.grad for weight in bent.pieces]
    assert [len(each) for each in told] == [0, 3]
    assert (told[1] != 0).all()


def test_texts_and_categories_without_numbers(tmp_path: Path) -> None:
    files = [_words(tmp_path, name, count) for name, count in (("train", 300), ("validation", 80))]
    fields = {"said": {"type": "text"}, "kind": {"type": "category"}, "y": {"type": "boolean"}}
    base = pipeline(SMALL, trainer=QUICK).model_dump(by_alias=True, exclude_unset=True)
    base["sources"]["rows"]["fields"], base["features"] = fields, {}
    built = build(Pipeline.model_validate(base), *files)
    assert built.metrics["auroc"] > 0.95


def _words(folder: Path, name: str, count: int) -> Path:
    random = np.random.default_rng(count)
    words = random.choice(["fine", "poor", "so", "and so"], (count, 3))
    labels = ((words == "fine").sum(axis=1) > (words == "poor").sum(axis=1)).astype(int)
    table = pa.table(
        {
            "said": [" ".join(row) for row in words],
            "kind": random.choice(["a", "b"], count).tolist(),
            "__label": labels,
        }
    )
    path = folder / f"{name}.parquet"
    metadata = {"penstock": json.dumps({"classes": ["false", "true"], "target": "y"})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("model", "trainer", "where", "said"),
    [
        ({"d": 1024, "blocks": 12}, {"epochs": 10_000}, "trainer.epochs", "may take .* hours"),
        ({"heads": 64, "d": 64}, {"batch_size": 10_000_000}, "trainer.batch_size", "takes .* GB"),
    ],
)
def test_it_is_refused_before_it_takes_days_or_all_memory(
    tmp_path: Path, model: dict[str, Any], trainer: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        build(pipeline({**SMALL, **model}, trainer=trainer), *parts(tmp_path))
    assert caught.value.where == where
