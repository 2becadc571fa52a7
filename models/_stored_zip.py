"""Uncompressed zip archives: where the bytes of each member lie, without reading them.

The records are those of PKWARE's APPNOTE 6.3.10: local headers (4.3.7), the central directory
(4.3.12) and the end records (4.3.14 to 4.3.16). Only what torch.save writes is accepted: nothing
compressed, nothing encrypted, no comment, one disk. Knows nothing of tensors or pickles.
"""

from pathlib import Path
from struct import Struct, error
from typing import BinaryIO, NamedTuple

from pfjax.models.config import CheckpointError

_LOCAL = Struct("<4s5H3L2H")
_CENTRAL = Struct("<4s6H3L5H2L")
_END, _LOCATOR, _END64 = Struct("<4s4H2LH"), Struct("<4sLQL"), Struct("<4sQ2H2L4Q")
_DIRECTORY_LIMIT = 1 << 24
_MAX16, _MAX32 = (1 << 16) - 1, (1 << 32) - 1
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of the flags
CONVERT = "convert it to safetensors with transformers' save_pretrained"


class Member(NamedTuple):
    """Where the bytes of a member lie in the archive."""

    offset: int
    size: int


class _Entry(NamedTuple):
    name: bytes
    header: int
    size: int


def stored_members(path: Path) -> dict[str, Member]:
    """The members of an archive by name; CheckpointError unless all lie inside the file, apart."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start, directory, count = _directory(path, file, size)
            entries = sorted(_entries(path, directory, count), key=lambda entry: entry.header)
            return _locate(path, file, entries, start)
    except error:
        raise damaged(path, "a record of the zip archive is cut short") from None
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read ({cause}); download it again.") from None


def read_member(path: Path, member: Member) -> bytes:
    """All bytes of a member."""
    try:
        with path.open("rb") as file:
            return _read(file, member.offset, member.size)
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read ({cause}); download it again.") from None


def damaged(path: Path, cause: str) -> CheckpointError:
    """The error for a file that no intact download can be."""
    return CheckpointError(f"{path}: {cause}; the file is damaged, download it again.")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, bytes, int]:
    """(first byte, bytes, number of entries) of the central directory."""
    at = size - _END.size
    end = _read(file, at, _END.size) if at >= 0 else b""
    if end[:4] != b"PK\5\6":
        raise _not_a_zip(path, _read(file, 0, 8), size)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack(end)
    short = (here, count, length, start)
    located = _read(file, at - _LOCATOR.size, _LOCATOR.size) if at >= _LOCATOR.size else b""
    if located[:4] == b"PK\6\7":
        at -= _LOCATOR.size + _END64.size
        _, _, where, disks = _LOCATOR.unpack(located)
        if where != at or disks != 1:
            raise damaged(path, "the zip archive's end records are misplaced")
        end = _END64.unpack(_read(file, at, _END64.size))
        here, count, length, start = end[6:]
        limits = (_MAX16, _MAX16, _MAX32, _MAX32)
        agree = all(s in (w, m) for s, w, m in zip(short, end[6:], limits, strict=True))
        if end[0] != b"PK\6\6" or end[4] or end[5] or not agree:
            raise damaged(path, "the zip archive's end records contradict one another")
    if disk or first_disk or comment or here != count or start + length != at:
        raise damaged(path, "the zip archive's directory is not where its end record says")
    if length > _DIRECTORY_LIMIT:
        raise CheckpointError(
            f"{path}: the zip archive's directory takes {length} bytes, wanted at most "
            f"{_DIRECTORY_LIMIT}; {CONVERT}."
        )
    return start, _read(file, start, length), count


def _not_a_zip(path: Path, first: bytes, size: int) -> CheckpointError:
    if first == b"version ":
        return CheckpointError(f"{path} is a Git LFS pointer; run `git lfs pull`.")
    if first[:4] == b"PK\3\4":
        return CheckpointError(f"{path} ({size} bytes) is truncated; download it again.")
    if first[:1] == b"\x80":
        return CheckpointError(
            f"{path} has the format of before torch 1.6, which pfjax does not read; save it again "
            "with torch >= 1.6 or convert it to safetensors."
        )
    return CheckpointError(
        f"{path} ({size} bytes) is not a zip archive as torch.save writes; download it again."
    )


def _entries(path: Path, directory: bytes, count: int) -> list[_Entry]:
    """The entries of the central directory, all stored as they are."""
    entries, at = [], 0
    while at < len(directory):
        fields = _CENTRAL.unpack_from(directory, at)
        magic, _, _, flags, method, _, _, _, packed, size, name_size, extra_size, note_size = (
            fields[:13]
        )
        at += _CENTRAL.size
        name = directory[at : at + name_size]
        extra = directory[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + note_size
        if magic != b"PK\1\2" or fields[13]:
            raise damaged(path, "the zip archive's directory is malformed")
        if flags & _ENCRYPTED:
            raise CheckpointError(f"{path} has encrypted members; decrypt it first.")
        if method:
            raise CheckpointError(
                f"{path} has compressed members, which torch.save does not write; {CONVERT}."
            )
        size, packed, header = _wide(path, extra, (size, packed, fields[16]))
        if size != packed:
            raise damaged(path, "a stored member of the zip archive has two sizes")
        entries.append(_Entry(name, header, size))
    if at != len(directory) or len(entries) != count:
        raise damaged(path, f"the zip archive claims {count} members and lists others")
    return entries


def _wide(path: Path, extra: bytes, values: tuple[int, ...]) -> list[int]:
    """Sizes and offsets, those of 64 bits taken from the extra field (APPNOTE 4.5.3)."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = (int.from_bytes(extra[i : i + 2], "little") for i in (at, at + 2))
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
            break
        at += 4 + length
    numbers = iter(wide[i : i + 8] for i in range(0, len(wide), 8))
    chosen = [next(numbers, b"") if value == _MAX32 else value for value in values]
    if any(isinstance(value, bytes) and len(value) < 8 for value in chosen):
        raise damaged(path, "a 64-bit size is missing from the zip archive's directory")
    return [int.from_bytes(v, "little") if isinstance(v, bytes) else v for v in chosen]


def _locate(path: Path, file: BinaryIO, entries: list[_Entry], end: int) -> dict[str, Member]:
    """Where the data of each entry starts, by its local header; `entries` in file order."""
    members, last = {}, 0
    for entry in entries:
        if entry.header < last or entry.header + _LOCAL.size > end:
            raise damaged(path, "members of the zip archive overlap or lie outside it")
        header = _read(file, entry.header, _LOCAL.size + len(entry.name))
        magic, _, flags, method, *_, name_size, extra_size = _LOCAL.unpack_from(header)
        known = magic == b"PK\3\4" and not method and not flags & _ENCRYPTED
        if not known or name_size != len(entry.name) or header[_LOCAL.size :] != entry.name:
            raise damaged(path, "a member's local header contradicts the zip archive's directory")
        offset = entry.header + _LOCAL.size + name_size + extra_size
        last = offset + entry.size
        if last > end:
            raise damaged(path, "members of the zip archive overlap or lie outside it")
        name = _name(path, entry.name)
        if name in members:
            raise damaged(path, f"the zip archive has two members {name}")
        members[name] = Member(offset, entry.size)
    return members


def _name(path: Path, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = ""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise damaged(path, f"the zip archive has a member named {str(raw)[1:80]}")
    return name
