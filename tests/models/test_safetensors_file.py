"""Headers pass when the tensors fill the file; damage never does worse than CheckpointError."""

import json
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save

from pfjax.models._tensors import find_tensors, read_slice
from pfjax.models.config import CheckpointError
from pfjax.models.safetensors_file import read_header

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.float16),
    "c": np.linspace(-3, 3, 8).reshape(4, 2).astype(ml_dtypes.bfloat16),
}
GOOD = save(ARRAYS)
LENGTH = int.from_bytes(GOOD[:8], "little")
HEADER, DATA = json.loads(GOOD[8 : 8 + LENGTH]), GOOD[8 + LENGTH :]


def pack(header, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def changed(name: str, **fields) -> dict:
    return HEADER | {name: HEADER[name] | fields}


def read_all(path) -> dict:
    return {
        name: read_slice(name, info, [(0, n) for n in info.shape], np.dtype(np.float32))
        for name, info in read_header(path).items()
    }


def test_values_and_parts(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    for name, value in read_all(path).items():
        np.testing.assert_array_equal(value, ARRAYS[name].astype(np.float32))
    info = find_tensors(tmp_path)["a"]
    assert (info.dtype, info.shape) == ("F32", (3, 4))
    part = read_slice("a", info, [(1, 4), (2, 4)], np.dtype(ml_dtypes.bfloat16))
    assert part.flags["C_CONTIGUOUS"] and part.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(part[:2].astype(np.float32), ARRAYS["a"][1:3, 2:])
    assert not part[2].any()  # past the end


def test_blocks_join(tmp_path, monkeypatch):
    """Blocks of one row give the same tensor as one block."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    monkeypatch.setattr("pfjax.models._tensors._BLOCK_BYTES", 17)
    for name, value in read_all(path).items():
        np.testing.assert_array_equal(value, ARRAYS[name].astype(np.float32))


BAD = {
    "overlap": (pack(changed("b", data_offsets=[46, 56])), "overlap or leave a gap"),
    "beyond the end": (pack(changed("a", data_offsets=[0, 10**15])), "is truncated"),
    "wrong size": (pack(changed("a", shape=[3, 5])), r"F32\[3, 5\] takes 60"),
    "huge shape": (pack(changed("a", shape=[2**40, 2**40])), "takes"),
    "negative shape": (pack(changed("a", shape=[-3, -4])), "malformed"),
    "fractional shape": (pack(changed("a", shape=[3.0, 4])), "malformed"),
    "boolean shape": (pack(changed("b", shape=[True, 5])), "malformed"),
    "three offsets": (pack(changed("a", data_offsets=[0, 48, 48])), "malformed"),
    "reversed offsets": (pack(changed("a", data_offsets=[48, 0])), "malformed"),
    "unknown dtype": (pack(changed("a", dtype="F128")), "unknown dtype 'F128'"),
    "dtype a number": (pack(changed("a", dtype=32)), "malformed"),
    "entry a list": (pack(HEADER | {"a": []}), "malformed"),
    "not an object": (pack([]), "holds a JSON list"),
    "not JSON": (pack(b"\x80\x05pickle"), "not JSON"),
    "digits": (pack(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
    "trailing bytes": (
        pack(HEADER, DATA + b"!"),
        "holds 75 bytes of data, its header describes 74",
    ),
    "truncated": (GOOD[:-1], "is truncated"),
    "nothing": (b"", "truncated or not safetensors"),
    "length only": ((8).to_bytes(8, "little"), "truncated or not safetensors"),
    "huge header": ((2**63).to_bytes(8, "little") + GOOD[8:], "truncated or not safetensors"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # nothing of the claimed size is allocated


def test_header_of_the_allowed_size_only(tmp_path):
    """A sparse file that claims a header of 200 MB is refused before it is read."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(CheckpointError, match="claims 200000000 bytes"):
        read_header(path)


DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}
NUMBERS = st.sampled_from([-1, 0, 1, 3, 4, 46, 48, 58, 74, 75, 2**31, 2**63, 2**70, math.inf, 0.5])
VALUES = st.none() | NUMBERS | st.text(max_size=3) | st.lists(NUMBERS, max_size=3)


@st.composite
def damaged(draw) -> bytes:
    """A good file with wrong header fields, or with bytes changed, removed or added."""
    kind = draw(st.sampled_from(["fields", "bytes", "cut", "insert"]))
    if kind == "fields":
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        value = draw(VALUES | st.sampled_from(["F32", "F64", "BF16", "I8"]))
        return pack(changed(draw(st.sampled_from("abc")), **{field: value}))
    content = bytearray(GOOD)
    at = draw(st.integers(0, 8 + LENGTH))
    if kind == "bytes":
        for i in draw(st.lists(st.integers(0, 7 + LENGTH), min_size=1, max_size=4)):
            content[i] = draw(st.integers(0, 255))
    elif kind == "cut":
        del content[at : at + draw(st.integers(1, 40))]
    else:
        content[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(content)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(content=damaged())
def test_damage_is_reported_or_harmless(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        values = read_all(path)
    except CheckpointError:
        return
    wanted = dict(deserialize(content))  # accepted: the library must read the same
    assert values.keys() == wanted.keys()
    for name, value in values.items():
        stored = np.frombuffer(bytes(wanted[name]["data"]), DTYPES[wanted[name]["dtype"]])
        np.testing.assert_array_equal(value, stored.reshape(wanted[name]["shape"]).astype("f4"))
