"""What every artifact store promises, each with the real thing; and what only S3 does."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Invalid, NotFound, Tampered, Unavailable
from penstock.contracts.events import Artifact
from penstock.runtime import artifacts_s3
from penstock.runtime.artifacts import Artifacts, file_digest
from penstock.runtime.settings import Platform
from penstock.testing.broker import free_ports

if TYPE_CHECKING:
    from penstock.testing.s3 import S3

KEY = "training-sets/01J/train.parquet"
LARGE = 2 * artifacts_s3.PART_BYTES + 12_345
"""Goes to S3 in parts."""


@pytest.fixture
def artifacts(artifacts_root: str) -> Artifacts:
    return Artifacts(artifacts_root)


def is_gone(artifacts: Artifacts, artifact: Artifact) -> bool:
    try:
        artifacts.read_unchecked(artifact)
    except NotFound:
        return True
    return False


def test_bytes_come_back_as_they_went(artifacts: Artifacts, tmp_path: Path) -> None:
    put = artifacts.put_bytes(KEY, b"rows")
    assert (put.uri, put.size) == (f"{artifacts.root}/{KEY}", 4)
    assert artifacts.read(put) == artifacts.fetch(put, tmp_path / "new" / "rows").read_bytes() == b"rows"
    assert artifacts.read(artifacts.put_bytes("empty", b"")) == b""


def test_a_file_that_goes_in_parts(artifacts: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(LARGE))
    put = artifacts.put_file("packages/large.tar", path)
    assert put.size == LARGE
    assert file_digest(artifacts.fetch(put, tmp_path / "again")) == put.digest == file_digest(path)


def test_a_key_that_exists_is_replaced(artifacts: Artifacts) -> None:
    first, second = artifacts.put_bytes(KEY, b"one"), artifacts.put_bytes(KEY, b"two")
    assert artifacts.read(second) == b"two"
    with pytest.raises(Tampered, match="expected sha256:"):
        artifacts.read(first)
    assert artifacts.read_unchecked(first) == b"two"


def test_a_reader_sees_the_old_bytes_or_the_new_ones(artifacts: Artifacts) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]
    artifacts.put_bytes(KEY, contents[0])
    known = {hashlib.sha256(content).hexdigest() for content in contents}
    ended, seen = threading.Event(), set()

    def read() -> None:
        one = Artifact(uri=artifacts.uri(KEY), digest="", size=0)
        while not ended.is_set():
            seen.add(hashlib.sha256(artifacts.read_unchecked(one)).hexdigest())

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for content in contents[1:]:
            artifacts.put_bytes(KEY, content)
        ended.set()
        for reader in readers:
            reader.result()
    assert seen
    assert seen <= known


WRITER = """
import sys
from pathlib import Path
from penstock.runtime.artifacts import Artifacts
artifacts = Artifacts(sys.argv[1])
artifacts.put_bytes("first", b"connected")
print("begun", flush=True)
artifacts.put_file(sys.argv[2], Path(sys.argv[3]))
print("done", flush=True)
"""


@pytest.mark.process
def test_a_writer_that_is_killed_leaves_all_or_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    path, chance = tmp_path / "large", random.Random(2)
    path.write_bytes(os.urandom(LARGE))
    whole = Artifact(uri=artifacts.uri(KEY), digest=file_digest(path), size=LARGE)
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, artifacts.root, KEY, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == "begun\n"
            time.sleep(chance.uniform(0, 0.3))  # the moment of the kill, seeded
            writer.kill()
            done = writer.stdout.read() == "done\n"
        try:
            artifacts.read(whole)
        except NotFound:
            assert not done
        artifacts.delete(KEY)


def test_what_is_gone_is_said_to_be(artifacts: Artifacts, tmp_path: Path) -> None:
    put = artifacts.put_bytes(KEY, b"rows")
    artifacts.delete(KEY)
    for read in (
        lambda: artifacts.read(put),
        lambda: artifacts.fetch(put, tmp_path / "x"),
        lambda: artifacts.read_unchecked(put),
    ):
        with pytest.raises(NotFound, match="the artifact is gone"):
            read()


def test_what_is_larger_than_was_stated_is_not_fetched(artifacts: Artifacts, tmp_path: Path) -> None:
    put = artifacts.put_bytes(KEY, b"rows")
    artifacts.put_bytes(KEY, b"x" * (4 << 20))
    for read in (lambda: artifacts.read(put), lambda: artifacts.fetch(put, tmp_path / "x")):
        with pytest.raises(Tampered, match="more than the 4 bytes expected"):
            read()
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size <= 4


def test_a_key_is_deleted_or_all_below_it_and_nothing_beside_it(artifacts: Artifacts) -> None:
    kept = [
        artifacts.put_bytes(key, b"stays")
        for key in ("training-sets/01JK/train", "training-sets/01", "training-sets.json")
    ]
    train, audit, still = (
        artifacts.put_bytes(f"training-sets/01J/{key}", b"goes") for key in ("train", "audit", "deeper/still")
    )
    artifacts.delete("training-sets/01J/train")
    assert is_gone(artifacts, train)
    assert artifacts.read(audit) == b"goes"
    artifacts.delete("training-sets/01J")
    artifacts.delete("training-sets/01J")
    artifacts.delete("never-was")
    assert is_gone(artifacts, audit)
    assert is_gone(artifacts, still)
    for artifact in kept:
        assert artifacts.read(artifact) == b"stays"


def test_only_an_artifacts_own_bytes_are_removed(artifacts: Artifacts) -> None:
    mine, other = (artifacts.put_bytes(f"packages/{name}", name.encode()) for name in ("mine", "other"))
    folder = mine.model_copy(update={"uri": artifacts.uri("packages")})
    mistaken = mine.model_copy(update={"uri": other.uri})
    for artifact in (folder, mistaken):
        artifacts.remove(artifact)
    assert artifacts.read(mine) == b"mine"
    for _ in range(2):
        artifacts.remove(mine)
    assert is_gone(artifacts, mine)
    assert artifacts.read(other) == b"other"


def test_from_an_event_loop_and_from_many_threads(artifacts: Artifacts) -> None:
    async def use() -> None:
        texts = [str(number).encode() for number in range(20)]
        put = await asyncio.gather(
            *(
                asyncio.to_thread(artifacts.put_bytes, f"many/{number}", text)
                for number, text in enumerate(texts)
            )
        )
        assert await asyncio.gather(*(asyncio.to_thread(artifacts.read, one) for one in put)) == texts
        assert artifacts.read(put[0]) == b"0", "and on the loop's own thread"

    asyncio.run(use())


@pytest.mark.process
def test_in_a_child_that_was_forked_after_it_was_used(artifacts: Artifacts) -> None:
    put = artifacts.put_bytes(KEY, b"rows")

    def use(said: object) -> None:
        said.send((artifacts.read(put), Artifacts(artifacts.root).put_bytes("child", b"new").digest))  # type: ignore[attr-defined]

    forking = multiprocessing.get_context("fork")
    ours, theirs = forking.Pipe()
    child = forking.Process(target=use, args=(theirs,))
    gc.collect()  # filesystems of the tests before, whose sessions the child would try to close
    gc.freeze()
    child.start()
    gc.unfreeze()
    assert ours.poll(30)
    read, digest = ours.recv()
    child.join(10)
    assert (read, child.exitcode) == (b"rows", 0)
    assert artifacts.read(Artifact(uri=artifacts.uri("child"), digest=digest, size=3)) == b"new"


def test_artifacts_of_another_store_are_read_and_replaced_where_they_are(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    """The root was changed since; who leaves, leaves there too."""
    root = f"file://{tmp_path}/before"
    before = Artifacts(root).put_bytes(KEY, b"old")
    both = Artifacts(f"{artifacts.root},{root}")
    assert both.read(before) == b"old"
    after = both.replace(before, b"new")
    assert after.uri == before.uri
    assert both.read(after) == (tmp_path / "before" / KEY).read_bytes() == b"new"
    assert is_gone(artifacts, before.model_copy(update={"uri": artifacts.uri(KEY)}))
    assert both.put_bytes(KEY, b"now").uri == artifacts.uri(KEY)
    both.remove(after)
    assert not (tmp_path / "before" / KEY).exists()


# -- where they are --------------------------------------------------------------------------------

NO_ROOTS = [
    "gopher://old",
    "/without/a/scheme",
    "file://no/root",
    "file:///",
    "s3:/one/slash",
    "s3://",
    "s3://Bucket",
    "s3://bucket//x",
]


@pytest.mark.parametrize("root", NO_ROOTS)
def test_a_root_that_is_no_stores_is_refused_where_it_is_set(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Invalid, match="this names no artifact store"):
        Artifacts(root)
    monkeypatch.setenv("PENSTOCK_ARTIFACTS", root)
    with pytest.raises(
        Invalid,
        match=r"^PENSTOCK_ARTIFACTS: this names no artifact store\. Write file:///folder or s3://bucket/prefix;",
    ):
        Platform()


def test_keys_in_the_root_are_refused_and_not_repeated() -> None:
    with pytest.raises(Invalid, match="stand in the file that AWS_SHARED_CREDENTIALS_FILE names") as caught:
        Platform(artifacts="s3://somebody:hunter22@bucket/prefix")
    assert "hunter22" not in str(caught.value)


def test_a_root_is_one_with_and_without_a_slash(tmp_path: Path) -> None:
    own = f"file://{tmp_path}/artifacts"
    for named, roots in (
        ("", own),
        ("s3://bucket/some/prefix/", f"s3://bucket/some/prefix,{own}"),
        ("s3://a.bucket", f"s3://a.bucket,{own}"),
        (f"{own}/,s3://a.bucket/", f"{own},s3://a.bucket"),
    ):
        assert Platform(home=tmp_path, artifacts=named).artifact_roots == roots


# -- only files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "/dev/zero", "/proc/self/pagemap"])
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path) -> None:
    """Neither waited for nor read for ever, whoever names it."""
    place = Path(kind) if kind.startswith("/") else tmp_path / kind
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "link":
            place.symlink_to("/etc/passwd")
        case "folder":
            place.mkdir()
    named = Artifact(uri=f"file://{place}", digest=digest_of(b"rows"), size=4)
    with pytest.raises(Tampered, match=r"it is no file|it is a link|more than the 4 bytes"):
        Artifacts(f"file://{place.parent}").read(named)


OUTSIDE = ["other/rows", "roots/rows", "root/../rows", "root/./rows", "root//rows", "root/", "root/\0"]


@pytest.mark.parametrize("place", OUTSIDE)
def test_what_lies_elsewhere_is_neither_read_nor_written_nor_removed(place: str, tmp_path: Path) -> None:
    """Whoever names it, and were its digest right."""
    for folder in ("root", "other", "roots", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "rows").write_bytes(b"rows")
    named = Artifact(uri=f"file://{tmp_path}/{place}", digest=digest_of(b"rows"), size=4)
    artifacts = Artifacts(f"file://{tmp_path}/root")
    for use in (
        lambda: artifacts.read(named),
        lambda: artifacts.read_unchecked(named),
        lambda: artifacts.fetch(named, tmp_path / "fetched"),
        lambda: artifacts.replace(named, b"new"),
        lambda: artifacts.remove(named),
    ):
        with pytest.raises(Invalid, match="this lies in no artifact store of this service"):
            use()
    assert [path.read_bytes() for path in tmp_path.rglob("rows")] == [b"rows"] * 4


@pytest.mark.parametrize("uri", ["s3://other/rows", "s3://bucket/artifacts/../rows", "gopher://bucket/rows"])
def test_nor_is_it_in_another_bucket(uri: str) -> None:
    named = Artifact(uri=uri, digest=digest_of(b"rows"), size=4)
    with pytest.raises(Invalid, match="this lies in no artifact store of this service"):
        Artifacts("s3://bucket/artifacts").read(named)


@pytest.mark.parametrize("place", ["link/rows", "link"])
def test_no_link_below_the_root_is_followed(place: str, tmp_path: Path) -> None:
    """The root itself may be one."""
    for folder in ("store", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows").write_bytes(b"rows")
    (tmp_path / "root").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "elsewhere" / ("" if "/" in place else "rows"))
    artifacts = Artifacts(f"file://{tmp_path}/root")
    named = Artifact(uri=artifacts.uri(place), digest=digest_of(b"rows"), size=4)
    assert artifacts.read(named.model_copy(update={"uri": artifacts.uri("rows")})) == b"rows"
    with pytest.raises(Tampered, match="a link"):
        artifacts.read(named)
    with suppress(Tampered):
        artifacts.remove(named)
    assert (tmp_path / "elsewhere" / "rows").read_bytes() == b"rows"


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("no folder")
    with pytest.raises(Unavailable, match="Not a directory"):
        Artifacts(f"file://{tmp_path}/root").put_bytes(KEY, b"rows")


# -- only S3 ---------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Artifacts, Artifact, Path], object]] = {
    "put": lambda artifacts, artifact, scratch: artifacts.put_bytes(KEY, b"rows"),
    "read": lambda artifacts, artifact, scratch: artifacts.read(artifact),
    "fetch": lambda artifacts, artifact, scratch: artifacts.fetch(artifact, scratch / "x"),
    "delete": lambda artifacts, artifact, scratch: artifacts.delete(KEY),
}


@pytest.fixture
def told(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.docker
@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("call", ["put", "read", "fetch", "delete"])
def test_a_bucket_that_is_not_there_is_named(call: str, tmp_path: Path) -> None:
    artifacts = Artifacts("s3://no-such-bucket/artifacts")
    with pytest.raises(Unavailable, match=r"there is no bucket `no-such-bucket`\. Create it"):
        CALLS[call](artifacts, Artifact(uri=artifacts.uri(KEY), digest="", size=0), tmp_path)


@pytest.mark.docker
@pytest.mark.usefixtures("told")
def test_while_it_is_away_every_call_says_so_soon_and_after_that_none(s3: S3, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{s3.bucket()}/artifacts")
    put = artifacts.put_bytes(KEY, b"rows")
    s3.container.kill()
    try:
        for call in CALLS.values():
            began = time.monotonic()
            with pytest.raises(Unavailable, match="the artifact store does not answer"):
                call(artifacts, put, tmp_path)
            assert time.monotonic() - began < 15
    finally:
        s3.container.start()
    assert artifacts.read(put) == b"rows", "durable"
    for call in CALLS.values():
        call(artifacts, put, tmp_path)


@pytest.mark.docker
@pytest.mark.usefixtures("told")
def test_wrong_credentials_are_refused(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(f"s3://{s3.bucket()}")
    wrong = tmp_path / "credentials"
    wrong.write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = hunter22\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(wrong))
    with pytest.raises(Unavailable, match="the artifact store refuses") as refused:
        artifacts.put_bytes(KEY, b"rows")
    assert "hunter22" not in str(refused.value)


@pytest.mark.process
@pytest.mark.parametrize("call", ["put", "read", "fetch", "delete", "put a large file"])
def test_a_server_that_never_answers_is_not_waited_for(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection, and as many bytes as the system keeps for it."""
    monkeypatch.setattr(artifacts_s3, "ANSWER_S", 0.5)
    monkeypatch.setattr(artifacts_s3, "SLOWEST_BYTES_S", 16 << 20)
    (tmp_path / "large").write_bytes(bytes(2 * artifacts_s3.PART_BYTES - 1))
    calls = CALLS | {
        "put a large file": lambda artifacts, artifact, scratch: artifacts.put_file(KEY, tmp_path / "large")
    }
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        artifacts, began = Artifacts("s3://bucket"), time.monotonic()
        with pytest.raises(Unavailable, match="the artifact store does not answer"):
            calls[call](artifacts, Artifact(uri=artifacts.uri(KEY), digest="", size=0), tmp_path)
        assert time.monotonic() - began < 15


def test_nothing_is_connected_to_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    threads = threading.active_count()
    assert Artifacts("s3://bucket/prefix/").uri(KEY) == f"s3://bucket/prefix/{KEY}"
    assert threading.active_count() == threads
