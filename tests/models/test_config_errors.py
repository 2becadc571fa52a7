"""A bad config.json or tokenizer ends in one sentence that names the cause and the fix."""

import json

import pytest

CASES = []


def case(message: str, base: str = "tied"):
    def register(damage):
        CASES.append(pytest.param(damage, base, message, id=damage.__name__))
        return damage

    return register


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@case("is not a folder; download")
def missing_folder(folder):
    folder.rename(folder.parent / "elsewhere")


@case("has no config.json")
def missing_config(folder):
    (folder / "config.json").unlink()


@case("config.json is not JSON")
def bad_json(folder):
    (folder / "config.json").write_text('{"architectures": ["Qwen2')


@case("config.json is not JSON")
def deep_json(folder):
    (folder / "config.json").write_text("[" * 100_000)


@case("config.json cannot be read")
def not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


@case("holds a JSON list, wanted an object")
def json_list(folder):
    (folder / "config.json").write_text("[]")


@case("architecture 'GPT2LMHeadModel', wanted one that pfjax loads: Qwen2ForCausalLM")
def unknown_architecture(folder):
    edit(folder / "config.json", architectures=["GPT2LMHeadModel"])


@case("architecture 7, wanted")
def architecture_not_a_list(folder):
    edit(folder / "config.json", architectures=7)


@case("hidden_size is -32, wanted >= 1")
def negative_size(folder):
    edit(folder / "config.json", hidden_size=-32)


@case("num_kv_heads is -2, wanted >= 1")
def negative_heads(folder):
    edit(folder / "config.json", num_key_value_heads=-2)


@case("head_dim is 7, wanted an even number")
def odd_head(folder):
    edit(folder / "config.json", head_dim=7)


@case("4 attention heads are not a multiple of 3")
def uneven_groups(folder):
    edit(folder / "config.json", num_key_value_heads=3)


@case("not a number")
def word_for_a_number(folder):
    edit(folder / "config.json", vocab_size="many")


@case("not a number")
def infinite_size(folder):
    edit(folder / "config.json", vocab_size=float("inf"))


@case("lacks the field 'hidden_size'")
def missing_field(folder):
    raw = json.loads((folder / "config.json").read_text())
    del raw["hidden_size"]
    (folder / "config.json").write_text(json.dumps(raw))


@case("rope type 'dynamic'; pfjax has default, linear, llama3, yarn, longrope only")
def dynamic_rope(folder):
    edit(folder / "config.json", rope_scaling={"type": "dynamic", "factor": 4.0})


@case("rope type 'proportional'; pfjax has default, linear, llama3, yarn, longrope only")
def proportional_rope(folder):
    edit(folder / "config.json", rope_parameters={"rope_type": "proportional", "rope_theta": 1e4})


@case("yarn rope has theta 10000.0, beta_slow 33.0 and beta_fast 32.0, wanted theta > 1")
def yarn_turned_round(folder):
    edit(folder / "config.json", rope_scaling={"type": "yarn", "factor": 4.0, "beta_slow": 33})


@case("yarn rope needs original_max_position_embeddings >= 2")
def yarn_without_origin(folder):
    rope = {"rope_type": "yarn", "original_max_position_embeddings": 0}
    edit(folder / "config.json", rope_parameters=rope)


@case("a rope parameter is not a positive number")
def yarn_without_attention(folder):
    edit(
        folder / "config.json", rope_scaling={"type": "yarn", "factor": 4.0, "attention_factor": 0}
    )


@case("rope_parameters is 'big', wanted an object")
def rope_not_an_object(folder):
    edit(folder / "config.json", rope_parameters="big")


@case("sliding_window is 0, wanted >= 1")
def sliding_window(folder):
    edit(folder / "config.json", use_sliding_window=True, sliding_window=0)


@case("names the layer type 'chunked_attention', wanted sliding_attention or full_attention")
def layer_type(folder):
    types = ["chunked_attention", "full_attention"]
    edit(folder / "config.json", use_sliding_window=True, layer_types=types)


@case("lists 1 layer types for 2 layers")
def layer_types_too_few(folder):
    edit(folder / "config.json", use_sliding_window=True, layer_types=["full_attention"])


@case("longrope has 1 short and 2 long factors, wanted 4 each")
def longrope_factors(folder):
    rope = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0]}
    edit(folder / "config.json", rope_parameters=rope | {"factor": 2.0})


@case("llama3 rope needs original_max_position_embeddings >= 1")
def llama3_without_origin(folder):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    edit(folder / "config.json", rope_parameters=rope | {"original_max_position_embeddings": 0})


@case("lacks the field 'factor'")
def linear_without_factor(folder):
    edit(folder / "config.json", rope_scaling={"type": "linear"}, rope_parameters=None)


@case("0.4 of head_dim 8 is rotated, 3 entries")
def odd_rotation(folder):
    edit(folder / "config.json", partial_rotary_factor=0.4)


@case("asks for the activation 'relu'; pfjax has silu and gelu_tanh only")
def activation(folder):
    edit(folder / "config.json", hidden_act="relu")


@case("a rope parameter is not a positive number")
def rope_nan(folder):
    rope = {"rope_type": "linear", "factor": float("nan"), "rope_theta": 1e4}
    edit(folder / "config.json", rope_parameters=rope)


@case("has no tokenizer.json")
def missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


@case("tokenizer.json is not a tokenizer")
def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


@case("ids, the embedding 115; use the tokenizer of this model")
def tokenizer_too_large(folder):
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    last = raw["added_tokens"][-1]
    more = [{**last, "id": last["id"] + i, "content": f"<{i}>"} for i in range(1, 9)]
    raw["added_tokens"] += more
    path.write_text(json.dumps(raw))


@case("eos_token_id is [2, 115], wanted ids below 115")
def end_outside_vocabulary(folder):
    edit(folder / "generation_config.json", eos_token_id=[2, 115])


@case("names no end of sequence", base="sharded")
def no_end(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)


@case("tokenizer lacks '<extra_0>'; use the PRM's own tokenizer", base="prm")
def no_probe(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<extra_0>", "<extra_9>"))


@pytest.mark.parametrize("damage, base, message", CASES)
def test_one_sentence(damage, base, message, copied, refused):
    folder = copied(base)
    damage(folder)
    refused(folder, message)
