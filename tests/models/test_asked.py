"""What is no path, dtype, format, mesh, kind or model is refused in one sentence that says what is wanted."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import models

TIED = Path(__file__).parent / "fixtures" / "tied"
PATHS = [
    None,
    5,
    True,
    b"abc",
    [],
    {},
    (),
    object(),
    "",
    " \n",
    "a\0b",
    "x" * 5000,
    "/nope",
    "~nobody/x",
]
DTYPES = [
    "foo",
    "int32",
    jnp.int32,
    "float64",
    np.float64,
    None,
    5,
    [],
    "",
    object(),
    "float8_e4m3fn",
]


def one_sentence(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400, text
    return text


@pytest.mark.parametrize("load", (models.load_policy, models.load_prm))
@pytest.mark.parametrize("path", PATHS, ids=lambda p: repr(p)[:20])
def test_paths(path, load):
    with pytest.raises(models.CheckpointError) as caught:
        load(path)
    text = one_sentence(caught)
    assert (
        "wanted the path of a folder" in text
        or "is not a folder; download" in text
        or "write" in text
    )


def test_what_is_loaded_is_no_path():
    policy = models.load_policy(TIED)
    with pytest.raises(models.CheckpointError, match="path is a Policy, .*; it is loaded already"):
        models.load_policy(policy)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: repr(d)[:20])
def test_dtypes(dtype):
    with pytest.raises(ValueError, match="wanted float32, bfloat16 or float16") as caught:
        models.load_policy(TIED, dtype=dtype)
    one_sentence(caught)
    with pytest.raises(ValueError, match="wanted float32, bfloat16 or float16"):
        models.load_prm(TIED, dtype=dtype, kind=models.RLHFLOW)


@pytest.mark.parametrize(
    "dtype, name",
    [("bfloat16", "bfloat16"), (jnp.bfloat16, "bfloat16"), (np.float16, "float16"), (np.dtype("f4"), "float32"),
     (np.str_("float32"), "float32"), ("f4", "float32")],
)  # fmt: skip
def test_names_and_types_are_dtypes(dtype, name):
    policy = models.load_policy(Path(TIED), dtype=dtype)
    assert policy.decoder.norm.scale[...].dtype == jnp.dtype(name)


@pytest.mark.parametrize(
    "wrong, words",
    [
        *(
            ({"weight_format": x}, "weight_format is .*, wanted one of int8, fp8")
            for x in ("int4", 8, [], True)
        ),
        *(({"mesh": x}, "mesh is .*, wanted a mesh such as") for x in ("2x1", 5, (1, 2))),
        *(
            ({"kind": x}, "kind is .*, wanted a PRMKind such as models.QWEN")
            for x in ("qwen", 5, [])
        ),
    ],
)
def test_options(wrong, words):
    with pytest.raises(ValueError, match=words) as caught:
        models.load_prm(TIED, **{"kind": models.RLHFLOW, **wrong})
    one_sentence(caught)


def test_exports(tmp_path):
    policy = models.load_policy(TIED)
    for path in (None, 5, "", b"x", "a\0b"):
        with pytest.raises(
            models.CheckpointError, match="folder is .*, wanted the path of a folder"
        ):
            models.export(policy, path)
        with pytest.raises(
            models.CheckpointError, match="folder is .*, wanted the path of a folder"
        ):
            models.save_weights(policy, path)
    for model in (None, 5, policy.decoder):
        with pytest.raises(ValueError, match="model is .*, wanted a Policy or a PRM"):
            models.export(model, tmp_path)
    with pytest.raises(ValueError, match="wanted float32, bfloat16 or float16"):
        models.export(policy, tmp_path / "out", dtype="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "answers", [(5, "-", "<extra_0>"), ("+", None, "<extra_0>"), ("+", "-", 5)]
)
def test_answers(answers):
    with pytest.raises(models.CheckpointError, match="an answer or probe is .*, wanted a text"):
        models.token_prm(models.load_policy(TIED), *answers)
