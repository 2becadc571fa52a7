"""Tensors of pytorch_model.bin are described without running it; damage is a CheckpointError.

The pickles are assembled here opcode by opcode as torch.save writes them; test_pickle_torch.py has
files of torch itself.
"""

import io
import json
import random
import re
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pfjax.models.config import CheckpointError
from pfjax.models.pickle_file import find_tensors, read_header, stored_view


def text(value: str) -> bytes:
    return b"X" + struct.pack("<L", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"\x8a\x14" + value.to_bytes(20, "little", signed=True)


def row(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


ORDERED = b"ccollections\nOrderedDict\n)R"
FIRST = b"ccollections\nOrderedDict\nq\0)Rq\1"  # the globals of the first tensor go to the memo
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor(kind="Float", key="0", numel=12, shape=(3, 4), strides=(4, 1), offset=0) -> bytes:
    words = (text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(key), text("cpu"))
    sizes = [n if isinstance(n, bytes) else row(*map(number, n)) for n in (shape, strides)]
    view = (row(*words, number(numel)) + b"Q", number(offset), *sizes, b"\x89", b"h\0)R")
    return REBUILD + row(*view) + b"R"


def pickled(items: bytes, after: bytes = b"") -> bytes:
    return b"\x80\2" + FIRST + b"(" + items + b"u" + after + b"."


def packed(data: bytes, change=(), root: str = "archive") -> bytes:
    """A whole file around a pickle; `change` replaces members, those with None are left out."""
    members = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"} | STORAGES
    members |= dict(change)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


TABLE = np.arange(12, dtype="<f4").reshape(3, 4)
BRAIN = np.linspace(-3, 3, 8).astype(ml_dtypes.bfloat16)
STORAGES = {"data/0": TABLE.tobytes(), "data/1": BRAIN.tobytes(), "data/2": b""}
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n" + row(tensor(), b"\x88", ORDERED) + b"R"
METADATA = b"}" + text("_metadata") + ORDERED + text("") + b"}" + text("version") + b"K\1sssb"
ITEMS = {
    "a": tensor(),
    "turned": tensor(shape=(4, 3), strides=(1, 4)),
    "column": tensor(shape=(3, 1), strides=(4, 77), offset=2),
    "brain": tensor("BFloat16", "1", 8, (4, 2), (2, 1)),
    "none": tensor("Half", "2", 0, (0, 5), (5, 1)),
    "one": tensor(shape=(), strides=(), offset=11),
    "parameter": PARAMETER,
}
WANTED = {"a": TABLE, "turned": TABLE.T, "column": TABLE[:, 2:3], "brain": BRAIN.reshape(4, 2)}
WANTED |= {"none": np.empty((0, 5), "f2"), "one": TABLE[2, 3], "parameter": TABLE}
PICKLE = pickled(b"".join(text(k) + v for k, v in ITEMS.items()), METADATA)


@pytest.fixture
def written(tmp_path):
    """written(content): a pytorch_model.bin of its own."""

    def write(content: bytes):
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(content)
        return path

    return write


def check_values(path, wanted):
    infos = read_header(path)
    assert list(infos) == list(wanted)
    for name, value in wanted.items():
        view = stored_view(infos[name])
        assert view.dtype == value.dtype and view.shape == infos[name].shape == value.shape
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, value)


@pytest.mark.parametrize(
    "content",
    [packed(PICKLE), packed(PICKLE, root="x"), packed(PICKLE, {"byteorder": None})],
)
def test_values(content, written):
    path = written(content)
    check_values(path, WANTED)
    info = find_tensors(path.parent)["column"]
    assert (info.file, info.dtype, info.shape, info.strides) == (path, "F32", (3, 1), (4, 0))
    assert info.offset == content.index(TABLE.tobytes()) + 8


def test_a_file_cut_after_its_header_was_read(written):
    info = read_header(written(packed(PICKLE)))["brain"]
    written(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        stored_view(info)


SELF = b"\x80\2}q\1(" + text("a") + b"h\1u."
LAUGHS = row(b")q\1" + b"h\1h\1\x86q\1" * 60)
NOTHING = b"\x80\2" + FIRST + b"}" + text("_metadata") + LAUGHS + b"sb"
BAD_PICKLES = {
    "system": (
        b"\x80\2cposix\nsystem\n" + text("touch touched") + b"\x85R.",
        "asks for posix.system",
    ),
    "stack global": (
        text("os") + text("system") + b"\x93.",
        "asks for os.system, which pfjax never",
    ),
    "nameless": (text("os") + b")\x93.", "the file asks for , which"),
    "instance": (b"(cposix\nsystem\no.", "the file asks for posix.system"),
    "unknown dtype": (pickled(text("a") + tensor("ComplexFloat")), "torch.ComplexFloatStorage"),
    "opcode": (b"\x80\2(lp0\n.", "uses the opcode LIST"),
    "no opcode": (b"\x80\2\xff.", "has no opcode at byte 2"),
    "no end": (PICKLE[:-1], "ends or has no opcode"),
    "cut text": (text("abc")[:-1], "malformed at byte 0"),
    "underflow": (b"\x80\2R.", "malformed at byte 2"),
    "no mark": (b"}u.", "malformed at byte 1"),
    "no memo": (b"h\1.", "malformed at byte 0"),
    "bytes after": (PICKLE + b".", "too early or too late"),
    "open mark": (b"(}.", "too early or too late"),
    "two values": (b"}}.", "too early or too late"),
    "in itself": (SELF, "a is the dict that holds it"),
    "in each other": (b"}q\1" + text("a") + b"}" + text("b") + b"h\1ss.", "a is a dict, wanted"),
    "nested": (pickled(text("state_dict") + b"}"), "state_dict is a dict, wanted a tensor"),
    "not a dict": (b"K\1.", "it holds a number, wanted a dict"),
    "number": (pickled(text("a") + b"K\1"), "a is a number, wanted a tensor"),
    "None": (pickled(text("a") + b"N"), "a is None, wanted a tensor"),
    "function": (pickled(text("a") + REBUILD), "a is the name of a function or class"),
    "twice": (pickled((text("a") + tensor()) * 2), "it holds a twice"),
    "name a number": (pickled(b"K\1" + tensor()), "a name in it is a number, wanted text"),
    "name of two lines": (pickled(text("a\nb") + tensor()), r"a name in it is 'a\nb'"),
    "long name": (pickled(text("a" * 2000) + tensor()), "a name in it is 'aaa"),
    "odd items": (pickled(text("a")), "puts items in what is not a dict"),
    "items in a tuple": (b"\x80\2)(K\1K\1u.", "puts items in what is not a dict"),
    "attributes": (pickled(b"", b"}" + text("x") + b"Nsb"), "sets attributes other than"),
    "attributes of a tuple": (b")}b.", "sets attributes other than"),
    "attributes in a tuple": (pickled(b"", b")b"), "sets attributes other than"),
    "True": (pickled(text("a") + b"\x88"), "a is True, wanted a tensor"),
    "shape": (pickled(text("a") + tensor(shape=b"K\1")), "with arguments that torch never uses"),
    "no view": (
        pickled(text("a") + REBUILD + row(b"K\1", b"K\0", b")", b")", b"\x89", ORDERED) + b"R"),
        "with arguments that torch never uses",
    ),
    "call": (pickled(text("a") + REBUILD + b")R"), "with arguments that torch never uses"),
    "call of a tensor": (pickled(text("a") + tensor() + b")R"), "with arguments that torch never"),
    "storage": (row(text("storage")) + b"Q.", "in words that torch does not use"),
    "key": (pickled(text("a") + tensor(key="../x")), "in words that torch does not use"),
    "digits": (pickled(text("a") + tensor(key="٣")), "in words that torch does not use"),
    "long key": (pickled(text("a") + tensor(key="1" * 21)), "in words that torch does not use"),
    "numel": (pickled(text("a") + tensor(numel=13)), "13 values of F32 take 52"),
    "beyond": (pickled(text("a") + tensor(shape=(4, 4))), "needs more than the 12 values"),
    "offset": (pickled(text("a") + tensor(offset=1)), "needs more than the 12 values"),
    "expanded": (pickled(text("a") + tensor(shape=(9, 4), strides=(0, 1))), "needs more than"),
    "overflow": (pickled(text("a") + tensor(shape=(2**62,) * 2, strides=(0, 0))), "needs more"),
    "empty overflow": (pickled(text("a") + tensor(shape=(0, 2**62))), "needs more than"),
    "stride": (pickled(text("a") + tensor(strides=(2**62, 1))), "needs more than"),
    "negative": (pickled(text("a") + tensor(strides=(-4, 1))), "that is not a count"),
    "huge": (pickled(text("a") + tensor(shape=(2**63, 1))), "that is not a count"),
    "axes": (pickled(text("a") + tensor(shape=(3,))), "has 1 sizes and 2 strides"),
    "many axes": (
        pickled(text("a") + tensor(shape=(1,) * 33, strides=(1,) * 33)),
        "has 33 sizes and 33 strides",
    ),
    "laughs": (LAUGHS + b".", "it holds a tuple, wanted a dict"),
    "laughing name": (b"}" + LAUGHS + b"Ns.", "a name in it is a tuple"),
    "laughing value": (pickled(text("a") + LAUGHS), "a is a tuple, wanted a tensor"),
    "laughing shape": (
        NOTHING + text("a") + tensor(shape=b"h\1", strides=b"h\1") + b"s.",
        "that is not a count",
    ),
}
BAD = {name: (packed(data), message) for name, (data, message) in BAD_PICKLES.items()}
BAD |= {
    "two roots": (packed(PICKLE, root="b").replace(b"b/data/0", b"c/data/0"), "folders b and c"),
    "no pickle": (packed(PICKLE, {"data.pkl": None}), "without data.pkl"),
    "no members": (b"PK\5\6" + bytes(18), "without data.pkl"),
    "big-endian": (packed(PICKLE, {"byteorder": b"big"}), "little-endian byte order"),
    "short storage": (packed(PICKLE, {"data/1": b"\0" * 15}), "of 15 bytes, but 8 values of BF16"),
    "no storage": (packed(PICKLE, {"data/1": None}), "brain lies in data/1, which the file lacks"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_bad_files(content, message, written, monkeypatch):
    path = written(content)
    monkeypatch.chdir(path.parent)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # nothing of the claimed size is allocated
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not (path.parent / "touched").exists()


def test_limits(written, monkeypatch):
    path = written(packed(PICKLE))
    monkeypatch.setattr("pfjax.models._state_pickle._STEP_LIMIT", 50)
    with pytest.raises(CheckpointError, match="takes over 50 steps"):
        read_header(path)
    monkeypatch.setattr("pfjax.models.pickle_file._PICKLE_LIMIT", 50)
    with pytest.raises(CheckpointError, match=f"takes {len(PICKLE)} bytes, wanted at most 50"):
        read_header(path)


def test_a_large_memo_index_takes_no_memory(written):
    check_values(written(packed(PICKLE.replace(b"h\0", b"r\xff\xff\xff\xffh\0"))), WANTED)


@pytest.mark.parametrize("damage", ["pickle", "file"])
def test_damage_is_reported_or_harmless(damage, written):
    """1000 pickles and 1000 files with bytes changed, copied, removed or added."""
    rng, accepted = random.Random(0), 0
    codes = b"}()tuusRQb.qh\x85\x86\x87NKXc\x89\x93\x94r\x8a\0\1\2\xff"
    for _ in range(1000):
        content = bytearray(PICKLE if damage == "pickle" else packed(PICKLE))
        for _ in range(rng.randint(1, 3)):
            at, other = rng.randrange(len(content)), rng.randrange(len(content))
            length, kind = rng.randint(1, 40), rng.randrange(6)
            if kind < 3:
                content[at] = rng.choice(codes) if kind else rng.randrange(256)
            elif kind == 3:
                del content[at : at + length]
            else:
                content[at:at] = (
                    content[other : other + length] if kind == 4 else bytes([rng.choice(codes)])
                )
        path = written(packed(bytes(content)) if damage == "pickle" else bytes(content))
        try:
            infos = read_header(path)
        except CheckpointError:
            continue
        accepted += 1
        for info in infos.values():
            assert stored_view(info).copy().shape == info.shape
    assert 5 < accepted < 995


@pytest.fixture
def sharded(tmp_path):
    """sharded(weight_map): a folder of two shards and this index."""
    for shard, names in (("one.bin", "ab"), ("two.bin", "c")):
        items = b"".join(text(name) + tensor() for name in names)
        (tmp_path / shard).write_bytes(packed(pickled(items)))

    def index(weight_map):
        path = tmp_path / "pytorch_model.bin.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return tmp_path

    return index


def test_shards(sharded):
    folder = sharded({"a": "one.bin", "c": "two.bin", "b": "one.bin"})
    infos = find_tensors(folder)
    files = [(name, info.file.name) for name, info in infos.items()]
    assert files == [("a", "one.bin"), ("c", "two.bin"), ("b", "one.bin")]
    np.testing.assert_array_equal(stored_view(infos["c"]), TABLE)


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (
            {"a": "../one.bin"},
            "names the shard '../one.bin', wanted a .bin file in the same folder",
        ),
        ({"a": "/one.bin"}, "names the shard '/one.bin', wanted"),
        ({"a": "one.safetensors"}, "names the shard 'one.safetensors', wanted"),
        ({"a": None}, "names the shard None, wanted"),
        ({"a": "three.bin"}, "lacks the shard three.bin"),
        ({"a": "two.bin"}, "places a in two.bin, which lacks it"),
        (["one.bin"], "has no weight_map"),
        ({}, "has no weight_map"),
    ],
)
def test_bad_index(weight_map, message, sharded):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        find_tensors(sharded(weight_map))


def test_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="has no pytorch_model.bin"):
        find_tensors(tmp_path)


def test_torch_reads_the_same(written):
    torch = pytest.importorskip("torch")
    path = written(packed(PICKLE))
    loaded = torch.load(path, weights_only=True)
    assert list(loaded) == list(WANTED)
    for name, value in WANTED.items():
        np.testing.assert_array_equal(loaded[name].detach().double(), value.astype("f8"))
