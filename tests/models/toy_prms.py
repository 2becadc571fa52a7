"""Random PRMs of every kind with toy tokenizers, and a policy of one layer to search beside them."""

import functools
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import families
import numpy as np
import toy_tokenizers
from flax import nnx

from pfjax import models
from pfjax.models.formats import PRM_KINDS, PRMKind, probe_text
from pfjax.search.loading import resolve

FIXTURES = Path(__file__).parent / "fixtures"
ASKED = "\nIs this more than Ann has?"
OWN = {
    name: PRMKind(name, "tokens", partial(probe_text, probe=ASKED, keep=keep, after=after))
    for name, keep, after in (("asked", True, ""), ("asked-once", False, "\n\n"))
}
KINDS = PRM_KINDS | OWN
BASES = {
    "asked": ("llama", "llama3"),
    "asked-once": ("llama", "llama3"),
    "qwen": ("qwen", "qwen2-grouped-7"),
    "qwen-once": ("qwen", "qwen2-grouped-7"),
    "skywork": ("qwen", "qwen2-ungrouped"),
    "rlhflow": ("llama", "llama3"),
    "math-shepherd": ("mistral", "mistral-window"),
}


@functools.cache
def tokenizer(name: str) -> models.Tokenizer:
    if name == "qwen":
        return models.load_prm(FIXTURES / "prm").tokenizer
    make = {"llama": toy_tokenizers.llama_like, "mistral": toy_tokenizers.mistral_like}[name]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return models.Tokenizer.from_folder(folder)


@functools.cache
def prm(name: str) -> models.PRM:
    """A random PRM of one layer; the heads are as random as the trunk."""
    kind, (own, family) = KINDS[name], BASES[name]
    config = families.config(family)
    config = replace(
        config,
        num_layers=1,
        sliding_layers=config.sliding_layers[:1],
        vocab_size=tokenizer(own).vocab_size,
    )
    if kind.head == "tokens":
        minus, plus = (tokenizer(own).encode(text)[-1] for text in kind.tokens)
        module = models.TokenModel(config, minus, plus, rngs=nnx.Rngs(0))
    else:
        make = models.ProcessRewardModel if kind.head == "classes" else models.ValueModel
        module = make(config, rngs=nnx.Rngs(0))
    module.decoder = families.decoder(config)
    for head in ("score_in", "score_out", "value_head"):
        if hasattr(module, head):
            weight = getattr(module, head).weight
            draw = np.random.default_rng(len(head)).normal(size=weight.shape[::-1]).T
            weight[...] = np.float32(draw * weight.shape[1] ** -0.5)
    return models.PRM(module, tokenizer(own), kind)


@functools.cache
def policy() -> models.Policy:
    """The first layer of the embedded policy: it writes words, in no order."""
    whole = models.load_policy(resolve("embedded:small"))
    config = replace(whole.config, num_layers=1)
    decoder = nnx.eval_shape(lambda: models.Decoder(config, rngs=nnx.Rngs(0)))
    decoder.embed_tokens, decoder.norm = whole.decoder.embed_tokens, whole.decoder.norm
    decoder.layers[0] = whole.decoder.layers[0]
    return replace(whole, decoder=decoder)


def spelled_out(kind: PRMKind) -> PRMKind:
    """The same format without the permission to take the policy's tokens."""
    return kind._replace(format=lambda t: replace(kind.format(t), plain=False))
