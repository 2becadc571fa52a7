"""Members of torch.save's archives are found in place; damage is a CheckpointError.

The archives are written here byte by byte in the layout of torch 2.13: padded local headers, data
descriptors, 64-bit end records. The zipfile module reads them as an independent check.
"""

import io
import random
import re
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from pfjax.models._stored_zip import read_member, stored_members
from pfjax.models.config import CheckpointError


def archive(members: list[tuple[str, bytes]]) -> bytes:
    content, central = b"", b""
    for name, data in members:
        at, raw, crc = len(content), name.encode(), zlib.crc32(data)
        pad = 4 + -(at + 34 + len(raw)) % 64  # the extra field FB moves data to 64 bytes
        extra = b"FB" + struct.pack("<H", pad - 4) + b"Z" * (pad - 4)
        content += struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(raw), pad)
        content += raw + extra + data + struct.pack("<4s3L", b"PK\7\10", crc, *[len(data)] * 2)
        sizes = (len(data), len(data), len(raw), 0, 0, 0, 0, 0, at)
        central += struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, *sizes) + raw
    counts = (len(members), len(members), len(central), len(content))
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 798, 45, 0, 0, *counts)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, len(content + central), 1)
    return content + central + end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts, 0)


MEMBERS = [("archive/data.pkl", b"a pickle"), ("archive/data/0", bytes(range(100)))]
MEMBERS += [("archive/data/1", b""), ("archive/version", b"3\n")]
GOOD = archive(MEMBERS)


@pytest.fixture
def written(tmp_path):
    """written(content): a file of its own."""

    def write(content: bytes):
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(content)
        return path

    return write


def contents(path) -> dict[str, bytes]:
    return {name: read_member(path, member) for name, member in stored_members(path).items()}


def zipped(method: int, members=MEMBERS, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
        file.comment = comment
    return buffer.getvalue()


def test_members_lie_where_zipfile_finds_them(written):
    path = written(GOOD)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert contents(path) == {name: file.read(name) for name in file.namelist()}
    assert contents(path) == dict(MEMBERS)
    assert all(member.offset % 64 == 0 for member in stored_members(path).values())
    assert contents(written(zipped(zipfile.ZIP_STORED))) == dict(MEMBERS)
    accents = [("épée/data.pkl", b"x")]
    assert contents(written(archive(accents))) == dict(accents)


def damaged(start: bytes, at: int, value: bytes) -> bytes:
    """GOOD with bytes replaced `at` bytes after the first `start`."""
    at += GOOD.index(start)
    return GOOD[:at] + value + GOOD[at + len(value) :]


def counted(here: int, count: int) -> bytes:
    """GOOD with other numbers of members in its end records."""
    start, end = GOOD[:-98], GOOD[-98:]
    return start + end[:24] + struct.pack("<2Q", here, count) + end[40:84] + b"\xff" * 4 + end[88:]


def with_64_bits(extra: bytes) -> bytes:
    """GOOD with sizes and offset of its first member moved to an extra field."""
    at, name = GOOD.index(b"PK\1\2"), MEMBERS[0][0]
    entry = bytearray(GOOD[at : at + 46 + len(name)])
    entry[20:28], entry[30:32], entry[42:46] = b"\xff" * 8, bytes([len(extra), 0]), b"\xff" * 4
    ends = bytearray(GOOD[-98:])
    for place, kind in ((40, "<Q"), (64, "<Q"), (88, "<L")):
        struct.pack_into(kind, ends, place, struct.unpack_from(kind, ends, place)[0] + len(extra))
    return GOOD[:at] + bytes(entry) + extra + GOOD[at + len(entry) : -98] + bytes(ends)


def test_64_bit_sizes(written):
    """What members beyond 4 GiB have."""
    extra = struct.pack("<2H", 7, 1) + b"!" + struct.pack("<2H3Q", 1, 24, 8, 8, 0)
    assert contents(written(with_64_bits(extra))) == dict(MEMBERS)
    for bad in (b"", extra[:-8], struct.pack("<2H3Q", 1, 24, 2**63, 2**63, 0)):
        with pytest.raises(CheckpointError, match="64-bit size|overlap or lie outside"):
            stored_members(written(with_64_bits(bad)))


CENTRAL, TWICE = b"PK\1\2", [("x/data.pkl", b"a pickle")]
BAD = {
    "legacy": (b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before torch 1.6, which pfjax does"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "not a zip": (b"{}" * 40, "not a zip archive as torch.save writes"),
    "nothing": (b"", "(0 bytes) is not a zip archive"),
    "truncated": (GOOD[:-1], "is truncated"),
    "half": (GOOD[: len(GOOD) // 2], "is truncated"),
    "only an end": (GOOD[-22:], "directory is not where"),
    "only ends": (GOOD[-42:], "end records are misplaced"),
    "bytes before": (b"PK\3\4" + GOOD, "end records are misplaced"),
    "comment": (zipped(zipfile.ZIP_STORED, comment=b"!"), "is truncated"),
    "two ends": (damaged(b"PK\5\6", 12, b"\1"), "contradict one another"),
    "two disks": (damaged(b"PK\6\7", 16, b"\2"), "end records are misplaced"),
    "another record": (damaged(b"PK\6\6", 0, b"X"), "contradict one another"),
    "disk 1": (damaged(b"PK\6\6", 16, b"\1"), "contradict one another"),
    "starts on disk 1": (damaged(b"PK\6\6", 20, b"\1"), "contradict one another"),
    "short disk 1": (damaged(b"PK\5\6", 4, b"\1"), "directory is not where"),
    "short start": (damaged(b"PK\5\6", 6, b"\1"), "directory is not where"),
    "no comment": (damaged(b"PK\5\6", 20, b"\1"), "directory is not where"),
    "some elsewhere": (counted(4, 5), "directory is not where"),
    "five": (counted(5, 5), "claims 5 members and lists others"),
    "three": (counted(3, 3), "claims 3 members and lists others"),
    "entry of disk 1": (damaged(CENTRAL, 34, b"\1"), "directory is malformed"),
    "last extra": (damaged(b"archive/version", -2, b"\xff"), "overlap or lie outside"),
    "local name": (damaged(b"PK\3\4", 26, b"\x11"), "local header contradicts"),
    "two counts": (damaged(b"PK\6\6", 32, b"\5"), "contradict one another"),
    "magic": (damaged(CENTRAL, 0, b"PK\1\3"), "directory is malformed"),
    "compressed": (zipped(zipfile.ZIP_DEFLATED), "compressed members"),
    "encrypted": (damaged(CENTRAL, 8, b"\1"), "encrypted members"),
    "two sizes": (damaged(CENTRAL, 20, b"\1"), "has two sizes"),
    "wrong header": (damaged(CENTRAL, 42, b"\1"), "local header contradicts"),
    "header outside": (damaged(CENTRAL, 42, b"\xfe" * 4), "overlap or lie outside"),
    "long extra": (damaged(b"PK\3\4", 28, b"\xff\xff"), "overlap or lie outside"),
    "some extra": (damaged(b"PK\3\4", 28, b"\xc8"), "overlap or lie outside"),
    "long name": (damaged(CENTRAL, 28, b"\xff\xff"), "claims 4 members and lists others"),
    "last note": (damaged(GOOD[GOOD.rindex(CENTRAL) :], 32, b"\1"), "4 members and lists others"),
    "other name": (damaged(b"archive/data.pkl", 0, b"b"), "local header contradicts"),
    "local method": (damaged(b"PK\3\4", 8, b"\10"), "local header contradicts"),
    "local cipher": (damaged(b"PK\3\4", 6, b"\1"), "local header contradicts"),
    "same member": (archive(TWICE * 2), "two members x/data.pkl"),
    "traversal": (archive([("x/../../y", b"")]), "member named 'x/../../y'"),
    "absolute": (archive([("/etc/x", b"")]), "member named '/etc/x'"),
    "backslash": (archive([("x\\y", b"")]), "a member named"),
    "new line": (archive([("x\ny", b"")]), r"member named 'x\ny'"),
    "folder": (archive([("x/", b"")]), "member named 'x/'"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_bad_archives(content, message, written):
    path = written(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        stored_members(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # nothing of the claimed size is allocated
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_huge_directory_is_not_read(tmp_path):
    """A sparse file whose end record claims a directory of 3 GB."""
    path, size = tmp_path / "pytorch_model.bin", 3_000_000_000
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, size, 0, 0))
    with pytest.raises(CheckpointError, match="takes 3000000000 bytes, wanted at most"):
        stored_members(path)


def test_unreadable_files(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            stored_members(path)


def test_damage_is_reported_or_harmless(written):
    """1500 archives with changed, removed or added bytes."""
    rng, accepted = random.Random(0), 0
    for _ in range(1500):
        content = bytearray(GOOD)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(content))
            kind = rng.random()
            if kind < 0.8:
                content[at] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
            elif kind < 0.9:
                del content[at : at + rng.randint(1, 40)]
            else:
                content[at:at] = rng.randbytes(rng.randint(1, 8))
        path = written(bytes(content))
        try:
            members = stored_members(path)
        except CheckpointError:
            continue
        accepted += 1
        for member in members.values():
            assert len(read_member(path, member)) == member.size
    assert 100 < accepted < 1400
