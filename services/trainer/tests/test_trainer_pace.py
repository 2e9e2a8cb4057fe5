from __future__ import annotations

import pytest

from penstock_trainer.pace import Pace


@pytest.mark.parametrize(
    ("data_s", "communication_s", "said"),
    [
        (0.1, 0.1, "computes 95% of the time"),
        (2.44, 0.4, "waits for data 61% of the time"),
        (0.4, 1.52, "waits for the other workers 38% of the time"),
    ],
)
def test_the_bottleneck_is_named(data_s: float, communication_s: float, said: str) -> None:
    epoch = {"rows": 8000, "took_s": 4.0, "step_s": 0.5} | {
        "data_s": data_s,
        "communication_s": communication_s,
    }
    pace = Pace(workers=2, because="as measured").at(epoch)
    assert (pace.workers, pace.because, pace.rows_per_s) == (2, "as measured", 2000)
    assert pace.bottleneck == said
    assert pace.figures["step_s"] == 0.5
    assert sum(value for name, value in pace.figures.items() if name.endswith("share")) == pytest.approx(1)


def test_what_a_gpu_did_is_told_where_there_is_one() -> None:
    epoch = {"rows": 8000, "took_s": 4.0, "data_s": 1.0, "communication_s": 0.0}
    on_one = [epoch | {"gpu_s": 1.0, "gpu_bytes": 3 << 30}, epoch | {"gpu_s": 3.0, "gpu_bytes": 2 << 30}]
    pace = Pace().at(*on_one)
    assert (pace.gpu_share, pace.gpu_bytes) == (0.5, 3 << 30)
    assert pace.figures.items() >= {"gpu_share": 0.5, "gpu_bytes": 3 << 30}.items()
    assert pace.part is not None
    assert (pace.part.gpu_share, pace.part.gpu_bytes) == (0.5, 3 << 30)
    alone = Pace().at(epoch)
    assert not {"gpu_share", "gpu_bytes"} & alone.figures.keys()
    assert alone.part is not None
    assert alone.part.gpu_bytes is None


def test_an_epoch_that_was_not_timed_says_nothing() -> None:
    """Those of a run from before an upgrade."""
    assert Pace().at({"number": 1}) == Pace()
    assert Pace().bottleneck == ""
    assert Pace().figures == {}
