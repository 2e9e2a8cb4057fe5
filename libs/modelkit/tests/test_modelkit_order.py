"""The order of an epoch's rows, whole and in windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.modelkit import order
from penstock.modelkit.network import Tensors
from penstock.modelkit.order import Windows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(rows: int, columns: int = 2) -> Tensors:
    """Each row has its number in all that it has, a few words among it."""
    dense = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, columns).contiguous()
    counts = torch.arange(rows) % 3
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    numbers = torch.arange(rows).repeat_interleave(counts)
    words = starts, torch.zeros_like(numbers), numbers.float() + 1, 1
    return Tensors(dense, torch.empty(rows, 0, dtype=torch.int64), (words,), ((starts, numbers + 1),))


@settings(deadline=None)
@given(rows=st.integers(1, 200), block=st.integers(1, 9), blocks=st.integers(1, 9), batch=st.integers(1, 70))
def test_each_row_comes_once_and_with_what_is_its_own(rows: int, block: int, blocks: int, batch: int) -> None:
    windows, known = Windows(rows, block, block * blocks), tensors(rows)
    found = windows.order(generator())
    batches = []
    for one in windows.read_ahead(found, batch, known):
        batches.append(one.rows)
        for read, expected in zip(one.cut(), known.batch(one.rows), strict=True):
            assert torch.equal(read, expected)
    assert sorted(found.tolist()) == list(range(rows))
    assert torch.equal(torch.cat(batches), found)
    assert {len(part) for part in batches[:-1]} <= {batch}


def test_a_window_is_read_while_the_one_before_is_trained_on() -> None:
    """And no more than that: two windows are in memory."""
    windows, known = Windows(1000, 10, 100), tensors(1000)
    held = {
        (one.features.dense.data_ptr(), len(one.features.dense) // 100)
        for one in windows.read_ahead(windows.order(generator()), 10, known)
    }
    assert {rows for _, rows in held} == {1}
    assert len({place for place, _ in held}) == 2


def test_a_set_that_fits_is_permuted_as_a_whole() -> None:
    found = Windows.of(tensors(1000)).order(generator(3))
    assert torch.equal(found, torch.randperm(1000, generator=generator(3)))


def test_a_window_reads_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WHOLE", 1000)
    monkeypatch.setattr(order, "WINDOW", 256 * 80)
    windows = Windows.of(Tensors(torch.zeros(25_000, 2), torch.empty(25_000, 0, dtype=torch.int64)))
    assert windows == Windows(25_000, 10, 2560)
    for part in torch.split(windows.order(generator()), windows.window):
        assert len(torch.unique(part // 10)) <= 257  # a last block that is shorter moves the edges


def test_batches_of_a_sorted_file_are_as_mixed_as_is_said() -> None:
    """Of the two halves of a sorted file each batch has its share, nearly as from a whole permutation;
    neighbours in the file are no neighbours in the order, and another epoch has another order.
    """
    rows, batch = 256 * 200 * 8, 128
    windows, whole = Windows(rows, 200, 200 * 256), Windows(rows, rows, rows)
    spread = {}
    for name, way in (("windows", windows), ("whole", whole)):
        shares = []
        for epoch in range(3):
            order_ = way.order(generator(epoch)).numpy()
            shares.append((order_.reshape(-1, batch) < rows // 2).mean(axis=1))
        spread[name] = float(np.std(shares))
    assert spread["whole"] == pytest.approx(0.0442, rel=0.05)
    assert spread["windows"] < 1.3 * spread["whole"]
    found = windows.order(generator()).numpy()
    assert (np.abs(np.diff(found)) < 200).mean() < 0.01
    assert abs(np.corrcoef(np.arange(rows), found)[0, 1]) < 0.1
    assert (found != windows.order(generator(1)).numpy()).mean() > 0.99
