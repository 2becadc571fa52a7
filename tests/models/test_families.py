"""config.json of every family: what is written is read back, and old field names mean the same."""

from math import log

import families
import pytest

from pfjax.models._families import config_from_dict
from pfjax.models._family_fields import config_to_dict
from pfjax.models.rope import Rope

SIZES = dict(
    vocab_size=131, hidden_size=48, intermediate_size=37, num_hidden_layers=6,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=131072,
)  # fmt: skip


@pytest.mark.parametrize("name", families.CASES)
def test_what_is_written_is_read_back(name):
    from dataclasses import replace

    from pfjax.models._families import architecture

    config = families.config(name)
    config = replace(config, architecture=architecture(config.family))
    again = config_from_dict(config_to_dict(config))
    scale = pytest.approx(config.scale)
    assert replace(again, attention_scale=None) == replace(config, attention_scale=None)
    assert again.scale == scale


def read(architecture: str, **fields):
    return config_from_dict(SIZES | {"architectures": [architecture]} | fields)


def test_llama_3_1_as_published():
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_type="llama3")
    scaling |= {"original_max_position_embeddings": 8192}
    config = read("LlamaForCausalLM", rope_theta=500000.0, rope_scaling=scaling)
    assert config.rope == Rope(5e5, "llama3", factor=8.0, original_positions=8192)
    new = read("LlamaForCausalLM", rope_parameters=scaling | {"rope_theta": 500000.0})
    assert new == config and not config.qkv_bias


def test_phi_3_and_phi_4_mini_as_published():
    """`su` was longrope's first name; the attention factor follows from the two lengths."""
    factors = dict(short_factor=[1.0] * 3, long_factor=[2.0] * 3)
    for kind in ("su", "longrope"):
        config = read(
            "Phi3ForCausalLM", rope_scaling=factors | {"type": kind}, partial_rotary_factor=0.75,
            original_max_position_embeddings=4096, sliding_window=262144,
        )  # fmt: skip
        assert config.rope.kind == "longrope" and config.rope.rotated(8) == 6
        assert config.rope.attention_factor == pytest.approx((1 + 5 / 12) ** 0.5)
        assert config.window(3) == 262144 and config.rms_norm_eps == 1e-5


def test_qwen_with_yarn_as_published():
    """Qwen2.5's card: factor 4 over 32768, where config.json still names 32768 positions."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    old = read(
        "Qwen2ForCausalLM", rope_scaling=scaling, max_position_embeddings=32768, rope_theta=1e6
    )
    assert old.max_positions == 131072
    wanted = Rope(
        1e6, "yarn", factor=4.0, original_positions=32768, attention_factor=0.1 * log(4) + 1
    )
    assert old.rope == wanted
    new = scaling | {"rope_type": "yarn", "rope_theta": 1e6}
    assert read("Qwen2ForCausalLM", rope_parameters=new).rope == wanted
    scales = scaling | dict(factor=40, mscale=1.0, mscale_all_dim=0.5, truncate=False, beta_fast=20)
    rope = read("Qwen3ForCausalLM", rope_scaling=scales).rope
    assert rope.attention_factor == pytest.approx((0.1 * log(40) + 1) / (0.05 * log(40) + 1))
    assert (rope.beta_fast, rope.beta_slow, rope.truncate) == (20, 1, False)
    given = read("Qwen3ForCausalLM", rope_scaling=scaling | {"attention_factor": 1.5})
    assert given.rope.attention_factor == 1.5


def test_gemma_3_as_published():
    """Old files name the local base, the period and the scaling of the full layers."""
    config = read(
        "Gemma3ForCausalLM", rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=512,
        rope_scaling={"rope_type": "linear", "factor": 8.0}, head_dim=16, query_pre_attn_scalar=168,
    )  # fmt: skip
    assert config.sliding_layers == (True,) * 5 + (False,)
    assert config.rope == Rope(1e6, "linear", factor=8.0) and config.local_rope == Rope(1e4)
    assert config.tie_embeddings and config.scale == pytest.approx(168**-0.5)
    assert read("Gemma3ForCausalLM", sliding_window_pattern=2).sliding_layers == (True, False) * 3


def test_fields_that_equal_a_default_may_be_missing():
    gemma = read("Gemma2ForCausalLM")
    assert (gemma.head_dim, gemma.attention_softcap, gemma.logit_softcap) == (256, 50.0, 30.0)
    assert gemma.sliding_window == 4096 and gemma.sliding_layers == (True, False) * 3
    assert read("MistralForCausalLM").window(0) == 4096
    assert read("MistralForCausalLM", sliding_window=None).window(0) is None
    assert read("Qwen3ForCausalLM").head_dim == 128
    qwen = read("Qwen2ForCausalLM", sliding_window=4096, max_window_layers=4)
    assert qwen.window(5) is None  # unless use_sliding_window says so
    used = read("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=4)
    assert [used.window(i) for i in range(6)] == [None] * 4 + [9] * 2


def test_skywork_names_its_own_class():
    assert read("Qwen2ForPrmModel").family == "qwen2"
