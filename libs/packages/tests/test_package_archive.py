"""An archive is the same whenever the package is the same, and unpacking one can do no harm."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import PenstockError, Tampered, TooLarge
from penstock.packages.archive import Limits, pack, pack_signed, unpack
from penstock.packages.format import open_package
from penstock.testing.packages import write_package


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("archives")
    digest = write_package(root / "package")
    pack(root / "package", root / "package.tar")
    return root / "package.tar", digest


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = to
    return info


def test_packing_is_deterministic_and_undone_by_unpacking(packed: tuple[Path, str], tmp_path: Path) -> None:
    archive, digest = packed
    unpack(archive, tmp_path / "out")
    open_package(tmp_path / "out", digest).check()
    pack(tmp_path / "out", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_archive_is_found(
    packed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    archive, _ = packed
    whole = archive.read_bytes()
    content_end = len(whole.rstrip(b"\0")) + 512
    cut = tmp_path_factory.mktemp("cut") / "cut.tar"
    cut.write_bytes(whole[: int(share * content_end)])
    with pytest.raises(Tampered):
        unpack(cut, cut.parent / "out")


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_another_package(
    packed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    archive, digest = packed
    broken = bytearray(archive.read_bytes())
    broken[int(place * len(broken))] ^= 1 << bit
    root = tmp_path_factory.mktemp("flipped")
    (root / "broken.tar").write_bytes(broken)
    try:
        unpack(root / "broken.tar", root / "out")
        open_package(root / "out", digest)
    except PenstockError:
        return
    pack(root / "out", root / "again.tar")
    assert (root / "again.tar").read_bytes() == archive.read_bytes(), (
        "only padding and unused header fields may differ"
    )


@pytest.mark.parametrize(
    "info",
    [
        entry("../outside"),
        entry("/tmp/outside"),
        entry("folder/file"),
        entry("package/../outside"),
        entry("package/folder/file"),
        entry("package"),
        entry("package/"),
        entry("/package/file"),
        entry(".hidden"),
        entry("folder", tarfile.DIRTYPE),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("hard", tarfile.LNKTYPE, "model.onnx"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_only_plain_files_are_unpacked(info: tarfile.TarInfo, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "evil.tar", (info, b""))
    with pytest.raises(Tampered, match="no plain file"):
        unpack(archive, tmp_path / "in" / "out")
    assert list((tmp_path / "in" / "out").iterdir()) == []
    assert not (tmp_path / "in" / "outside").exists()


def test_limits_hold_before_anything_is_written(tmp_path: Path) -> None:
    two = tar_of(tmp_path / "two.tar", (entry("a"), b"x" * 10), (entry("b"), b"x" * 10))
    with pytest.raises(TooLarge):
        unpack(two, tmp_path / "files", Limits(files=1))
    with pytest.raises(TooLarge):
        unpack(two, tmp_path / "bytes", Limits(bytes=9))
    assert list((tmp_path / "bytes").iterdir()) == []


def test_a_header_that_lies_about_its_size_is_found(tmp_path: Path) -> None:
    info = entry("huge")
    info.size = 1 << 30
    (tmp_path / "lie.tar").write_bytes(info.tobuf() + b"x" * 512)
    with pytest.raises(Tampered):
        unpack(tmp_path / "lie.tar", tmp_path / "out")


def test_the_same_name_twice_and_bytes_after_the_end_are_refused(
    packed: tuple[Path, str], tmp_path: Path
) -> None:
    twice = tar_of(tmp_path / "twice.tar", (entry("a"), b"1"), (entry("a"), b"2"))
    with pytest.raises(Tampered, match="twice"):
        unpack(twice, tmp_path / "twice")
    (tmp_path / "more.tar").write_bytes(packed[0].read_bytes() + b"more")
    with pytest.raises(Tampered, match="after the archive's end"):
        unpack(tmp_path / "more.tar", tmp_path / "more")


def test_nothing_is_unpacked_over_other_files(packed: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(Tampered, match="over other files"):
        unpack(packed[0], tmp_path)


def test_a_signed_archive_has_the_signature_beside_the_package(tmp_path: Path) -> None:
    digest = write_package(tmp_path / "package")
    (tmp_path / "sig").write_text("signature")
    pack_signed(tmp_path / "package", tmp_path / "sig", tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = tar.getnames()
    assert names[0] == "model.sig"
    assert all(name.startswith("package/") for name in names[1:])
    unpack(tmp_path / "out.tar", tmp_path / "out")
    assert (tmp_path / "out" / "model.sig").read_text() == "signature"
    open_package(tmp_path / "out" / "package", digest)
