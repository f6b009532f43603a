"""Archives: what is asked for comes out byte for byte; whatever could hurt is refused in less than a second."""

import gzip
import io
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder import archives
from stepladder.errors import DataError, IntegrityError, StepladderError

MEGABYTES = 1 << 20


def make_zip(path: Path, content: dict[str, bytes], **header: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in header.items():
                setattr(entry, key, value)
            archive.writestr(entry, data)
    return path


def make_tar(path: Path, content: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE, target: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(data))
    return path


def make(folder: Path, form: str, content: dict[str, bytes]) -> Path:
    return make_zip(folder / "a.zip", content) if form == "zip" else make_tar(folder / "a.tar.gz", content)


def refused(archive: Path, place: Path, error: type = DataError) -> str:
    """Extract everything below `place`, and return the message after proving that nothing was left or slow."""
    target = place / "out"
    started = time.perf_counter()
    with pytest.raises(error) as caught:
        archives.extract(archive, ["*"], target)
    assert time.perf_counter() - started < 1
    assert [path.name for path in place.rglob("*")] == ["out"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with nothing in it, beside the archives."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_only_matching_members_come_out_under_their_own_path(tmp_path: Path, place: Path, form: str) -> None:
    archive = make(tmp_path, form, {"p/data/a.txt": b"a\r\n\x00", "p/data/deep/b.txt": b"", "p/setup.py": b"boom"})
    written = archives.extract(archive, ["p/data/*.txt"], place)
    assert sorted(path.relative_to(place).as_posix() for path in written) == ["p/data/a.txt", "p/data/deep/b.txt"]
    assert (place / "p/data/a.txt").read_bytes() == b"a\r\n\x00"


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_members_are_read_in_memory_in_their_order(tmp_path: Path, form: str) -> None:
    archive = make(tmp_path, form, {"b": b"2", "a": b"1"})
    assert [(member.name, member.size_bytes, member.read()) for member in archives.members(archive)] == [
        ("b", 1, b"2"),
        ("a", 1, b"1"),
    ]


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "..", "a\\..\\x", "C:/x", "a/\nb", "x" * 300, "a/" * 600 + "b"]
)
def test_a_path_that_leads_outside_or_cannot_be_shown_is_refused(
    tmp_path: Path, place: Path, form: str, name: str
) -> None:
    assert "refused" in refused(make(tmp_path, form, {"good.txt": b"1", name: b"2"}), place)


def test_a_name_cut_by_a_zero_byte_is_refused(tmp_path: Path, place: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good.txtX/../../evil": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"good.txtX", b"good.txt\0"))
    refused(archive, place)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_devices_and_sparse_files_of_a_tar_are_refused(tmp_path: Path, place: Path, kind: bytes) -> None:
    refused(make_tar(tmp_path / "a.tgz", {"x": b""}, kind=kind, target="/etc/passwd"), place, StepladderError)


def test_a_write_through_a_link_of_the_archive_is_refused(tmp_path: Path, place: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("dir")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("dir/evil"))
    refused(tmp_path / "a.tar", place)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666])
def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path, place: Path, mode: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"/etc/passwd"}, external_attr=mode << 16, create_system=3)
    assert "link or device" in refused(archive, place)


def test_encrypted_members_are_refused(tmp_path: Path, place: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"secret"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refused(archive, place)


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(
    ("names", "reason"), [(["a", "./a"], "duplicate"), (["a", "a/b"], "collides"), (["a/b", "a"], "collides")]
)
def test_members_that_collide_are_refused(
    tmp_path: Path, place: Path, form: str, names: list[str], reason: str
) -> None:
    assert reason in refused(make(tmp_path, form, dict.fromkeys(names, b"x")), place)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, place: Path, form: str) -> None:
    archive = make(tmp_path, form, {"small.txt": b"x", "bomb": bytes(64 * MEGABYTES)})
    assert archive.stat().st_size < MEGABYTES
    assert "unpacks to more than" in refused(archive, place)


def test_a_bomb_in_a_header_that_declares_no_member_is_refused(tmp_path: Path, place: Path) -> None:
    data = bytes(64 * MEGABYTES)
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, len(data)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + data, 1))
    refused(tmp_path / "a.tgz", place)


def test_a_member_longer_than_it_declares_is_refused(tmp_path: Path, place: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": bytes(range(256)) * 40})
    content = archive.read_bytes()
    lie = struct.pack("<L", 100)
    archive.write_bytes(content.replace(struct.pack("<L", 10240), lie))
    refused(archive, place, IntegrityError)


def test_members_sharing_the_same_bytes_are_counted_each(tmp_path: Path, place: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {f"m{number}": zlib.compress(bytes(9000)) * 90 for number in range(300)})
    with pytest.raises(DataError, match=r"more than 100,000 bytes"):
        archives.extract(archive, ["*"], place / "out", max_bytes=100_000)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path: Path, place: Path, form: str) -> None:
    archive = make(tmp_path, form, {f"m{number}": b"" for number in range(30)})
    with pytest.raises(DataError, match="more than 20 members"):
        archives.extract(archive, ["*"], place / "out", max_members=20)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_cut_archive_is_one_line_of_integrity(tmp_path: Path, place: Path, form: str) -> None:
    archive = make(tmp_path, form, {"x": bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[:-40])
    assert str(archive) in refused(archive, place, IntegrityError)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x1f\x8bjunk"])
def test_what_is_no_archive_is_one_line_of_integrity(tmp_path: Path, place: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", place, IntegrityError)


def test_a_member_said_to_lie_before_the_start_is_one_line_of_integrity(tmp_path: Path, place: Path) -> None:
    archive = make(tmp_path, "zip", {"x": b"hello"})
    content = bytearray(archive.read_bytes())
    content[-6] += 1  # where the central directory begins
    archive.write_bytes(content)
    assert "lies outside of it" in refused(archive, place, IntegrityError)


def test_a_pattern_without_a_member_names_what_is_there(tmp_path: Path, place: Path) -> None:
    with pytest.raises(DataError, match=r"No member matches 'b\.txt'; the archive has: a\.txt"):
        archives.extract(make_zip(tmp_path / "a.zip", {"a.txt": b""}), ["a.txt", "b.txt"], place)
    assert not any(place.iterdir())


def test_a_target_that_is_a_link_or_not_empty_is_refused(tmp_path: Path, place: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b""})
    (tmp_path / "link").symlink_to(place)
    for target in (tmp_path / "link", tmp_path):
        with pytest.raises(DataError, match="empty folder and no link"):
            archives.extract(archive, ["*"], target)
    assert archive.exists() and not any(place.iterdir())


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_never_ends_in_a_foreign_error_or_outside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    archive = make(folder, data.draw(st.sampled_from(["zip", "tar"])), {"a/x.txt": b"hello" * 50, "b": b"\x00" * 600})
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    try:
        archives.extract(archive, ["*"], folder / "place" / "out")
    except StepladderError as error:
        assert not any((folder / "place" / "out").iterdir()), error
    assert {path.name for path in folder.iterdir()} <= {archive.name, "place"}
    assert [path.name for path in (folder / "place").iterdir()] == ["out"]
