"""Files of the real torch.save are read as torch.load reads them."""

import numpy as np
import pytest

from pfjax.models.config import CheckpointError
from pfjax.models.pickle_file import find_tensors, read_header, stored_view


def states(torch) -> dict[str, dict]:
    """Dicts of tensors with every dtype, shared storages, views and parameters."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3, 4, generator=generator)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    kinds = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8")
    kinds += ("uint8", "bool")
    return {
        "module": network.state_dict(),
        "dtypes": {kind: table.mul(9).to(getattr(torch, kind)) for kind in kinds},
        "parameters": dict(network.named_parameters()),
        "views": {
            "table": table,
            "turned": table.t(),
            "row": table[1],
            "column": table[:, 2],
            "thinned": table[::2, 1::2],
            "permuted": torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
            "number": torch.tensor(3.5),
            "empty": torch.zeros(0, 5),
        },
        "many": {f"layer.{i}": torch.full((2,), float(i)) for i in range(1500)},
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", ["module", "dtypes", "parameters", "views", "many"])
def test_values(name, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    wanted = states(torch)[name]
    torch.save(wanted, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    infos = find_tensors(tmp_path)
    assert list(infos) == list(wanted)
    for key, value in wanted.items():
        view, value = stored_view(infos[key]), value.detach()
        assert view.shape == tuple(value.shape)
        if value.dtype == torch.bfloat16:
            assert infos[key].dtype == "BF16"
            view, value = view.astype(np.float32), value.float()
        assert view.dtype == value.numpy().dtype
        np.testing.assert_array_equal(view, value.numpy())


def test_beyond_4_gib(tmp_path):
    """64-bit sizes and offsets; the data are left out, so the file is a sparse one."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "large.bin"
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty(2**32 + 5, dtype=torch.int8), "b": torch.empty(7)}, path)
    infos = read_header(path)
    assert (infos["a"].shape, infos["b"].shape) == ((2**32 + 5,), (7,))
    assert infos["b"].offset > 2**32 and infos["b"].offset % 64 == 0
    assert stored_view(infos["a"])[-1] == 0 and not stored_view(infos["b"]).any()


def test_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path, table = tmp_path / "pytorch_model.bin", torch.ones(2, 3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(table)], lr=0.1)
    for value, message in (
        ({"model": {"a": table}}, "model is a dict, wanted a tensor"),
        (table, "it holds a tensor, wanted a dict"),
        (optimizer.state_dict(), "uses the opcode EMPTY_LIST"),
        (torch.nn.Linear(2, 3), "asks for torch.nn.modules.linear.Linear, which pfjax never runs"),
        ({"a": table.to_sparse()}, "asks for torch._utils._rebuild_sparse_tensor"),
        ({"a": table.to(torch.complex64)}, "asks for torch.ComplexFloatStorage"),
        ({"a": table[:1].expand(9, 3)}, "needs more than the 6 values"),
    ):
        torch.save(value, path)
        with pytest.raises(CheckpointError, match=message):
            read_header(path)
    torch.save({"a": table}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="before torch 1.6, which pfjax does not read"):
        read_header(path)
