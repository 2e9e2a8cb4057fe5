"""One pipeline's trouble is no other's."""

from __future__ import annotations

from pathlib import Path

import pytest
from lending import credit_risk

from penstock.contracts.errors import Unavailable
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.pipelines import Applied
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import Store
from penstock.testing.packages import NOW
from penstock_feature_store.deletion import Deletion
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.records import Records
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.settings import Settings


async def test_a_pipeline_that_cannot_be_followed_keeps_no_other_from_being_owned(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'fs.db'}", migrations="penstock_feature_store.migrations")
    records = Records(Settings(), Arrivals(), Readiness(lambda: NOW))
    lake, keys = Lake(tmp_path / "lake"), Keys(tmp_path / "keys")
    stores, artifacts = SqliteOnlineStores(), Artifacts(f"file://{tmp_path}/artifacts")
    pipelines = Pipelines(
        store,
        lake,
        stores,
        tmp_path / "feast",
        records,
        keys,
        Deletion(store, lake, stores, tmp_path, artifacts),
    )
    for name in ("bad", "good"):
        await pipelines._apply(Applied(credit_risk(pipeline=name), 1, "sha256:1"), None)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "bad").write_text("a file where its folder belongs")
    pipelines.own()
    assert [held.pipeline.pipeline for held in pipelines.all()] == ["good"]
    with pytest.raises(Unavailable):
        pipelines.owned("bad")
    pipelines.close()
    store.close()
