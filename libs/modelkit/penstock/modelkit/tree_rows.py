"""Rows for LightGBM that need not fit into memory: it keeps a byte or two of each value, the number of its
bin, and asks for the values themselves some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightgbm
import numpy as np

from penstock.modelkit.graph import Array

CHUNK = 65_536  # rows that are put together at once


class TreeRows(lightgbm.Sequence):
    """float64 [N, columns], cut from where it lies as it is asked for. LightGBM makes of it what it makes of
    the same matrix.
    """

    batch_size = CHUNK

    def __init__(self, rows: int, cut: Callable[[slice | list[int]], Array]) -> None:
        self._rows, self._cut = rows, cut

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, which: int | slice | list[int]) -> Array:
        if isinstance(which, slice | list):
            return self._cut(which)
        row: Array = self._cut(slice(which, which + 1))[0]
        return row

    def chunks(self) -> Iterator[Array]:
        for at in range(0, self._rows, CHUNK):
            yield self._cut(slice(at, at + CHUNK))


class Dataset(lightgbm.Dataset):
    """LightGBM's, which makes of `TreeRows` what it makes of a matrix, and asks a model that it goes on from
    of so many rows at once.
    """

    def get_params(self) -> dict[str, Any]:
        """Parameters, all of them: LightGBM's own leaves out the seed of the rows that bins are made from,
        and what decides which columns are of no use.
        """
        return dict(self.params or {})

    def _set_init_score_by_predictor(self, predictor: Any, data: Any, used_indices: Any) -> lightgbm.Dataset:
        if predictor is None or not isinstance(data, TreeRows):
            return super()._set_init_score_by_predictor(predictor, data, used_indices)
        found = [
            predictor.predict(data=chunk, raw_score=True, data_has_header=False) for chunk in data.chunks()
        ]
        self.set_init_score(np.concatenate(found).ravel(order="F"))  # one output after the other
        return self
