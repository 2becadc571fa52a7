"""Writes the parity fixtures: tiny random Qwen2 checkpoints and what transformers computes.

    python tests/models/make_fixtures.py        (needs torch: pip install pfjax[parity])

Weights are bfloat16 on disk and float32 in torch, eager attention. Scales are about 1/sqrt(fan in),
with biases and norms far from 0 and 1, so that a missing bias, transpose or norm moves the logits
by more than 0.1. The folders differ in what real checkpoints differ in: tied or not, grouped heads,
explicit head_dim, RoPE base, old and new config fields, one file or shards, where the
end-of-sequence ids stand, where the chat template stands.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Model, Qwen2Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
TEXT = (
    "Ann has 12 apples.\n\nBob has 3 more than Ann, so 12 + 3 = 15.\n\nThe answer is \\boxed{15}."
)
QUESTION = "How many apples does Bob have?"
STEPS = ["Ann has 12.", "Bob has 12 + 3 = 15.", "The answer is \\boxed{15}."]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "  15\n"},
    {"role": "user", "content": "Sure?"},
]
TEMPLATE = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nThink.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {%- if loop.index > 9 %}{% break %}{% endif %}
    {%- set text = message.content | trim %}
{{ '<|im_start|>' + message.role }}
{{ text }}<|im_end|>
{% endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% else %}
    {{- eos_token }}
{% endif %}"""

SIZES = {
    "tied": dict(
        hidden_size=32, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, rope_theta=10000.0, tie_word_embeddings=True, rms_norm_eps=1e-6,
    ),
    "grouped": dict(
        hidden_size=28, intermediate_size=33, num_hidden_layers=2, num_attention_heads=7,
        num_key_value_heads=1, rope_theta=1000000.0, tie_word_embeddings=False, rms_norm_eps=1e-5,
    ),
    "sharded": dict(
        hidden_size=20, intermediate_size=31, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, rope_theta=10000.0, tie_word_embeddings=False,
        rms_norm_eps=1e-3,
    ),
    "prm": dict(
        hidden_size=32, intermediate_size=23, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rope_theta=1000000.0, tie_word_embeddings=False, rms_norm_eps=1e-6,
    ),
    "yarn": dict(
        hidden_size=32, intermediate_size=27, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, rope_theta=10000.0, tie_word_embeddings=True, rms_norm_eps=1e-6,
        scaling=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=256, beta_fast=16.0
        ),
    ),
}  # fmt: skip
LONG = {"yarn": (1, 400)}  # past the length of training


def write_tokenizer(folder: Path) -> None:
    """Qwen2's own class over printable ASCII and a few merges; three special tokens and a probe.

    AutoTokenizer in transformers 5 takes this class for every folder of model_type qwen2, ignoring
    the pre-tokenizer in tokenizer.json, so another one would not give the same ids there.
    """
    alphabet = [chr(b) for b in range(33, 127)] + ["Ġ", "Ċ"]
    merges = [("h", "a"), ("Ġ", "ha"), ("Ċ", "Ċ"), (".", "ĊĊ"), ("n", "n"), ("A", "nn")]
    merges += [("Ġha", "s"), ("a", "p"), ("ap", "p"), ("e", "s"), ("l", "es"), ("Ġ", "\\")]
    pieces = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    fast = Qwen2Tokenizer(
        vocab, merges, eos_token=SPECIAL[2], pad_token=SPECIAL[0], bos_token=SPECIAL[1]
    )
    fast.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    fast.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder, save_jinja_files=folder.name != "grouped")


def randomise(module: torch.nn.Module, embedding_scale: float) -> None:
    """Values of a realistic scale, exact in bfloat16."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            value = torch.randn(parameter.shape) * parameter.shape[1] ** -0.5
            value = value * embedding_scale if "embed" in name else value * 1.5
        elif name.endswith("bias"):
            value = 0.5 * torch.randn(parameter.shape)
        else:
            value = 0.5 + torch.rand(parameter.shape)
        parameter.data = value.to(torch.bfloat16).to(torch.float32)


def edit(path: Path, **changes) -> None:
    """Rewrites fields of a JSON file; None removes one."""
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}, indent=1) + "\n")


def policy(name: str, sizes: dict, vocab: int) -> None:
    folder = FIXTURES / name
    write_tokenizer(folder)
    config = make_config(sizes, vocab)
    model = Qwen2ForCausalLM(config).eval()
    randomise(model, 3.0)
    if config.tie_word_embeddings:
        model.tie_weights()
    tokens = torch.randint(0, vocab, LONG.get(name, (2, 9)))
    with torch.no_grad():
        logits = model(tokens).logits[:, -20:]
    np.savez_compressed(folder / "expected.npz", tokens=tokens.numpy(), logits=logits.numpy())
    limit = "20KB" if name == "sharded" else "1GB"
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=limit)
    if name == "tied":
        old = dict(rope_theta=sizes["rope_theta"], torch_dtype="bfloat16")
        edit(folder / "config.json", rope_parameters=None, dtype=None, head_dim=None, **old)
        edit(folder / "generation_config.json", eos_token_id=[2, 0], temperature=0.7)
    else:
        (folder / "generation_config.json").unlink(missing_ok=True)
    edit(folder / "config.json", eos_token_id=0 if name == "grouped" else None)
    write_text_expectations(folder)


def prm(sizes: dict, vocab: int) -> None:
    """Qwen2Model with the head of Qwen2.5-Math-PRM: Linear, ReLU, Linear; class 1 is right."""
    folder = FIXTURES / "prm"
    write_tokenizer(folder)
    model = torch.nn.Module()
    model.model = Qwen2Model(make_config(sizes, vocab)).eval()
    e = sizes["hidden_size"]
    model.score = torch.nn.Sequential(torch.nn.Linear(e, e), torch.nn.ReLU(), torch.nn.Linear(e, 2))
    randomise(model, 0.5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    probe = tokenizer.convert_tokens_to_ids("<extra_0>")
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    text += "".join(step + "<extra_0>" for step in STEPS)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        probabilities = (
            model.score(model.model(ids).last_hidden_state).double().softmax(-1)[0, :, 1]
        )
    scores = torch.logit(probabilities[ids[0] == probe]).float().numpy()
    np.savez_compressed(folder / "expected.npz", ids=ids.numpy(), scores=scores)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model.model.config.architectures = ["Qwen2ForProcessRewardModel"]
    model.model.config.save_pretrained(folder)
    write_text_expectations(folder)


def make_config(sizes: dict, vocab: int) -> Qwen2Config:
    sizes = dict(sizes)
    scaling = sizes.pop("scaling", {"rope_type": "default"})
    rope = scaling | {"rope_theta": sizes.pop("rope_theta")}
    return Qwen2Config(
        vocab_size=vocab, max_position_embeddings=256, rope_parameters=rope, bos_token_id=None,
        eos_token_id=None, attn_implementation="eager", **sizes,
    )  # fmt: skip


def write_text_expectations(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    render = dict(tokenize=False)
    expected = {
        "text": TEXT,
        "ids": tokenizer.encode(TEXT, add_special_tokens=False),
        "question": QUESTION,
        "steps": STEPS,
        "messages": MESSAGES,
        "prompt": tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, **render),
        "transcript": tokenizer.apply_chat_template(
            MESSAGES, add_generation_prompt=False, **render
        ),
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    torch.manual_seed(20260101)
    shutil.rmtree(FIXTURES, ignore_errors=True)
    for number, (name, sizes) in enumerate(SIZES.items()):
        vocab = 115 + 2 * number
        prm(sizes, vocab) if name == "prm" else policy(name, sizes, vocab)
    for path in FIXTURES.rglob("*.safetensors"):
        path.chmod(0o644)
    total = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
    print(f"{total / 1000:.0f} kB in {FIXTURES}")
