"""News and packages for sites: what is newer is told at once and whole, what was promoted is handed
out by ranges, and nothing else.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.contracts.errors import Denied, Invalid, NotFound, Tampered, Unavailable
from penstock.contracts.events import (
    Event,
    ModelVersionPromoted,
    PipelineApplied,
    PipelineDeleted,
    decode,
    encode,
)
from penstock.edge_gateway.v1.hub_pb2 import Erasure, FetchPackageRequest, WatchRequest, WatchResponse
from penstock.edge_gateway.v1.site_pb2 import SiteStatus
from penstock.packages import trust_updates
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.cloud_events import Received
from penstock.runtime.router import Router
from penstock.testing import lending, packages
from penstock_edge_gateway.features import PSEUDONYMIZE, STOPPED, needed
from penstock_edge_gateway.hub import news as told
from penstock_edge_gateway.hub.news import News
from penstock_edge_gateway.hub.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.hub.shelf import RANGE_BYTES, Shelf
from penstock_edge_gateway.pseudonyms import fingerprint, pseudonym

ARCHIVE, SIGNATURE = FetchPackageRequest.PART_ARCHIVE, FetchPackageRequest.PART_SIGNATURE
DIGESTS = ["sha256:" + digit * 64 for digit in "abc"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    made.ensure(roles=["registry", "audit", "trainer", "feature_store"])
    return made


@pytest.fixture
def news(keys: Keys, tmp_path: Path) -> News:
    return News("penstock.edge_gateway", keys, PseudonymKeys(tmp_path))


async def tell(router: Router | None, event: Event) -> None:
    async def left_out(received: Received, why: Exception, _: int) -> None:
        left.append(why)

    left: list[Exception] = []
    assert router is not None
    await router.replay(Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event)), left_out)
    if left:
        raise left[0]


def promoted(
    keys: Keys, digest: str, generation: int, name: str = "loans", **artifacts: object
) -> ModelVersionPromoted:
    version = packages.version(digest, keys, name=name, **artifacts)  # type: ignore[arg-type]
    proof = packages.verdict(keys, digest, name=name)
    return packages.promotion(keys, version, proof, generation=generation)


async def newer(news: News, within_s: float = 0, **known: object) -> WatchResponse:
    async def nothing() -> list[Erasure]:
        return []

    return await news.newer(WatchRequest(**known), within_s, nothing)  # type: ignore[arg-type]


async def test_a_site_is_told_what_it_does_not_know_as_the_registry_signed_it(news: News, keys: Keys) -> None:
    file, promotion = packages.applied(keys), promoted(keys, DIGESTS[0], 2)
    await tell(news.applied.router, file)
    await tell(news.router, promotion)
    first = await newer(news)
    assert [decode(PipelineApplied.ce_type(), said) for said in first.pipelines] == [file]
    assert [decode(ModelVersionPromoted.ce_type(), said) for said in first.promotions] == [promotion]
    assert not (await newer(news, numbers={"loans": 1}, generations={"loans": 2})).ByteSize()
    await tell(news.router, promoted(keys, DIGESTS[1], 1))  # comes late
    assert not (await newer(news, numbers={"loans": 1}, generations={"loans": 2})).ByteSize()


async def test_a_site_gets_the_key_of_pseudonyms_until_it_has_that_one(
    news: News, keys: Keys, tmp_path: Path
) -> None:
    plain = lending.spec(pipeline="cards")
    file = lending.spec(edge={"may_leave": ["income", "purpose", "defaulted"], "pseudonymize": ["sex"]})
    news.applied.complete = True
    await tell(news.applied.router, packages.applied(keys, spec=plain))
    assert not (await newer(news, numbers={"cards": 1})).ByteSize()
    assert (news.pseudonym("cards", "p3"), news.pseudonym("loans", "p3")) == (None, None)
    await tell(news.applied.router, packages.applied(keys, number=2, spec=file))
    known = {"numbers": {"loans": 2, "cards": 1}, "status": SiteStatus(features=[PSEUDONYMIZE])}
    told = (await newer(news, **known)).pseudonym_keys
    assert (list(told), len(told["loans"])) == (["loans"], 32)
    assert told["loans"] == PseudonymKeys(tmp_path).key("loans") != PseudonymKeys(tmp_path).key("cards")
    assert (await newer(news, **known, pseudonym_keys={"loans": "another"})).pseudonym_keys == told
    has = {"loans": fingerprint(told["loans"])}
    assert not (await newer(news, **known, pseudonym_keys=has)).ByteSize()
    assert news.pseudonym("loans", "p3") == pseudonym(told["loans"], "applicant_id", "p3")
    (secret,) = tmp_path.glob("pseudonyms*")
    assert secret.stat().st_mode & 0o777 == 0o600
    secret.write_text("{}")
    told_without = await newer(news, numbers={"loans": 1, "cards": 1}, status=known["status"])
    assert (len(told_without.pipelines), dict(told_without.pseudonym_keys)) == (1, {})
    with pytest.raises(Tampered, match="secret of all pseudonyms"):
        news.pseudonym("loans", "p3")


async def test_a_site_one_release_behind_is_told_no_file_that_it_could_not_carry_out(
    news: News, keys: Keys
) -> None:
    """It would pass over `edge.pseudonymize`, and forward the values themselves, in events by the file that
    was applied, in records by that of the version which serves.
    """
    pseudonymous = lending.spec(edge={"may_leave": ["income", "defaulted"], "pseudonymize": ["sex"]})
    assert needed(lending.pipeline(serving={"stopped": "wrong"})) == {STOPPED}
    for name, number, spec in (
        ("cards", 1, lending.spec(pipeline="cards")),
        ("loans", 1, lending.spec()),
        ("loans", 2, pseudonymous),
    ):
        await tell(news.applied.router, packages.applied(keys, number=number, spec=spec))
        assert spec["pipeline"] == name
    for name, digest in zip(("cards", "loans"), DIGESTS, strict=False):
        await tell(news.router, promoted(keys, digest, 1, name))
    behind, upgraded = SiteStatus(), SiteStatus(features=[PSEUDONYMIZE, "edge.of_the_next_release"])
    others = await newer(news, numbers={"loans": 1}, status=behind)
    (file,), (promotion,) = others.pipelines, others.promotions
    assert decode(PipelineApplied.ce_type(), file).pipeline == "cards"  # type: ignore[attr-defined]
    assert decode(ModelVersionPromoted.ce_type(), promotion).version.pipeline == "cards"  # type: ignore[attr-defined]
    known = {"numbers": {"loans": 1, "cards": 1}, "generations": {"cards": 1}}
    assert not (await newer(news, **known, status=behind)).ByteSize()
    assert (news.held_back(behind.features), news.held_back(upgraded.features)) == (["loans"], [])
    with pytest.raises(Denied, match="cannot carry out the newest file of loans, so it sends no tensors"):
        news.check_told("loans", behind.features)
    news.check_told("loans", upgraded.features)
    news.check_told("cards", behind.features)
    told = await newer(news, **known, status=upgraded)
    assert (len(told.pipelines), len(told.promotions), list(told.pseudonym_keys)) == (1, 1, ["loans"])


async def test_one_who_waits_is_told_at_once(news: News, keys: Keys) -> None:
    waiting = asyncio.create_task(newer(news, 60))
    await asyncio.sleep(0)  # lets it begin to wait
    await tell(news.router, promoted(keys, DIGESTS[0], 1))
    assert len((await asyncio.wait_for(waiting, 5)).promotions) == 1


async def test_one_who_waits_is_told_of_an_erasure_that_is_asked_meanwhile(news: News) -> None:
    asked: list[Erasure] = []

    async def pending() -> list[Erasure]:
        return asked

    waiting = asyncio.create_task(news.newer(WatchRequest(), 60, pending))
    await asyncio.sleep(0)  # lets it begin to wait
    asked.append(Erasure(serial=1, pipeline="loans", entity="p3"))
    news.changed()
    assert list((await asyncio.wait_for(waiting, 5)).erasures) == asked


async def test_a_deleted_pipeline_is_told_to_who_has_it_alone(news: News, keys: Keys) -> None:
    await tell(news.applied.router, packages.applied(keys))
    await tell(news.applied.router, packages.deleted(keys))
    (said,) = (await newer(news, numbers={"loans": 1})).deleted
    assert isinstance(decode(PipelineDeleted.ce_type(), said), PipelineDeleted)
    assert not (await newer(news)).ByteSize()


async def test_only_a_pipeline_that_the_registry_says_is_deleted_is_no_more(news: News, keys: Keys) -> None:
    news.applied.complete = True
    with pytest.raises(Unavailable, match="knows no pipeline `loans`"):
        news.declared("loans")
    await tell(news.applied.router, packages.applied(keys))
    assert news.declared("loans").pipeline == "loans"
    await tell(news.applied.router, packages.deleted(keys))
    with pytest.raises(NotFound):
        news.declared("loans")
    with pytest.raises(NotFound, match="a name of 4000000 characters"):
        news.declared("x" * 4_000_000)


async def test_updates_of_the_trust_store_are_told_once_they_are_signed(news: News, keys: Keys) -> None:
    following = asyncio.create_task(news.follow_trust())
    updates = trust_updates.appended((), keys.trust().keys, keys.signer("registry"))
    (keys.directory / trust_updates.FILE).write_bytes(trust_updates.written(updates))
    assert (await newer(news, 60)).trust == trust_updates.written(updates)
    assert not (await newer(news, trust_serial=1)).ByteSize()
    following.cancel()


async def test_what_is_too_much_for_one_answer_comes_by_parts(
    news: News, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "ENOUGH_BYTES", 1)
    for number, name in enumerate(("loans", "cards"), 1):
        await tell(news.router, promoted(keys, DIGESTS[number], number, name))
    known: dict[str, int] = {}
    while found := (await newer(news, generations=known)).promotions:
        (said,) = found
        event = decode(ModelVersionPromoted.ce_type(), said)
        assert isinstance(event, ModelVersionPromoted)
        known[event.version.pipeline] = event.generation
    assert known == {"loans": 1, "cards": 2}


async def test_a_promotion_that_was_not_granted_is_not_handed_on(news: News, keys: Keys) -> None:
    forged = promoted(keys, DIGESTS[0], 1).model_copy(update={"generation": 9})
    with pytest.raises(Exception, match="signed"):
        await tell(news.router, forged)
    assert not (await newer(news)).ByteSize()


async def test_an_older_statement_that_someone_writes_again_changes_nothing(
    news: News, keys: Keys, tmp_path: Path
) -> None:
    files = [packages.applied(keys, number=number) for number in (1, 2)]
    promotions = [promoted(keys, digest, 1 + at) for at, digest in enumerate(DIGESTS[:2])]
    for event in (*files, files[0]):
        await tell(news.applied.router, event)
    for promotion in (*promotions, promotions[0]):
        await tell(news.router, promotion)
    found = await newer(news)
    assert [decode(PipelineApplied.ce_type(), said) for said in found.pipelines] == files[1:]
    assert [decode(ModelVersionPromoted.ce_type(), said) for said in found.promotions] == promotions[1:]
    # Compaction has left nothing but the replayed ones.
    restarted = News("penstock.edge_gateway", keys, PseudonymKeys(tmp_path))
    await tell(restarted.applied.router, files[0])
    await tell(restarted.router, promotions[0])
    known = {"generations": {"loans": 2}, "numbers": {"loans": 2}}
    assert not (await newer(restarted, **known)).ByteSize()  # type: ignore[arg-type]


@pytest.mark.usefixtures("artifacts_root")
async def test_a_promoted_package_is_read_by_ranges_and_no_other_is(
    news: News, keys: Keys, root: str, tmp_path: Path
) -> None:
    artifacts = Artifacts(root)
    bytes_ = bytes(range(256)) * (RANGE_BYTES // 200)
    package = artifacts.put_bytes("packages/a.tar", bytes_)
    signature = artifacts.put_bytes("signatures/a.sig", b"signed")
    await tell(news.router, promoted(keys, DIGESTS[0], 1, package=package, signature=signature))
    shelf = Shelf(artifacts, tmp_path / "shelf", news.version)

    def read(
        digest: str, part: FetchPackageRequest.Part, offset: int = 0, length: int = 0
    ) -> tuple[bytes, int]:
        return shelf.read(digest, part, offset, length)

    found = b""
    while len(found) < len(bytes_):
        data, size = await asyncio.to_thread(read, DIGESTS[0], ARCHIVE, len(found))
        assert (size, bool(data)) == (len(bytes_), True)
        found += data
    assert found == bytes_
    assert read(DIGESTS[0], SIGNATURE, 2, 3) == (b"gne", 6)
    with pytest.raises(Invalid, match="has 6 bytes"):
        read(DIGESTS[0], SIGNATURE, 7)
    with pytest.raises(NotFound, match="no pipeline has"):
        read(DIGESTS[1], ARCHIVE)
    await tell(news.router, promoted(keys, DIGESTS[1], 2, package=signature, signature=package))
    assert read(DIGESTS[1], ARCHIVE) == (b"signed", 6)
    assert [path.name for path in (tmp_path / "shelf").iterdir()] == ["b" * 64]
    with pytest.raises(NotFound):
        read(DIGESTS[0], SIGNATURE)
