"""Attention over a shared prefix, a private suffix and the new token equals a full forward pass."""

from dataclasses import replace
from pathlib import Path

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax import models
from pfjax.models import Segment, attend, cache, forward

PREFIX, SUFFIX, ROWS = 7, 5, 3


@pytest.fixture(scope="module", params=["tied", "grouped"])
def decoder(request):
    folder = Path(__file__).parent / "fixtures" / request.param
    return models.load_policy(folder).decoder


def _variant(name: str) -> models.Decoder:
    """A family whose windows and longrope switch are inside the few tokens of this test."""
    config = families.config(name)
    if config.rope.kind == "longrope":
        config = replace(config, rope=replace(config.rope, original_positions=PREFIX + 3))
    return families.decoder(replace(config, num_layers=2, sliding_layers=config.sliding_layers[:2]))


VARIANTS = ("qwen2-window", "qwen3-biases", "llama3", "granite", "phi3-longrope", "mistral-window")
VARIANTS += ("gemma2", "gemma3")


@pytest.fixture
def tokens(decoder):
    """[problem, particle, position]; a problem's particles share the first PREFIX tokens."""
    return _tokens(decoder)


def _tokens(decoder):
    shape = (2, ROWS, PREFIX + SUFFIX + 1)
    draw = np.random.default_rng(3).integers(0, decoder.config.vocab_size, shape, np.int32)
    draw[:, :, :PREFIX] = draw[:, :1, :PREFIX]
    return jnp.asarray(draw)


def _full(decoder, tokens):
    hidden = forward(decoder, tokens.reshape(-1, tokens.shape[-1]))
    return hidden.reshape(*tokens.shape, -1)


def _transposed(x):
    """[p, n, s, k, d] to [p, n, k, d, s]."""
    return jnp.moveaxis(x, 2, 4)


def _by_segments(decoder, tokens):
    """The last token's hidden state from keys and values recorded on the way through the others."""
    stored = {}

    def record(index, q, k, v):
        stored[index] = k, v
        seen = jnp.tril(jnp.ones((q.shape[2],) * 2, bool))[None, None]
        return attend(q, [Segment(_transposed(k), jnp.swapaxes(v, 2, 3), seen)])

    positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
    decoder(tokens[..., :-1], positions[..., :-1], record)

    def cached(index, q, k, v):
        past_k, past_v = _transposed(stored[index][0]), jnp.swapaxes(stored[index][1], 2, 3)
        seen = jnp.ones((1, 1, 1, 1), bool)
        prefix = Segment(past_k[:, 0, ..., :PREFIX], past_v[:, 0, :, :PREFIX], seen)
        still = ((0, 0),) * 3  # two columns of junk behind the suffix, masked
        suffix = Segment(
            jnp.pad(past_k[..., PREFIX:], (*still, (0, 0), (0, 2)), constant_values=1e4),
            jnp.pad(past_v[..., PREFIX:, :], (*still, (0, 2), (0, 0)), constant_values=1e4),
            (jnp.arange(SUFFIX + 2) < SUFFIX)[None, None, None],
        )
        current = Segment(_transposed(k), jnp.swapaxes(v, 2, 3), seen)
        return attend(q, [prefix, suffix, current])

    return decoder(tokens[..., -1:], positions[..., -1:], cached)[..., 0, :]


def _by_cache(decoder, tokens, kept):
    """Hidden states of two tokens, then of two more after each row has committed `kept` of them."""
    padded = jnp.pad(tokens[:, 0, :PREFIX], ((0, 0), (0, 4)))  # junk columns behind the prompt
    prefix = cache.prefill(decoder, padded, jnp.full((2,), PREFIX, jnp.int32), SUFFIX + 1)
    rows, length = kept.shape, jnp.zeros_like(kept)
    suffix, buffer = (cache.empty(decoder.config, rows, columns) for columns in (6, 3))
    step = tokens[..., PREFIX : PREFIX + 2]
    both, buffer = cache.extend(decoder, step, prefix, suffix, length, buffer, jnp.int32(0))
    suffix, buffer = cache.commit(suffix, buffer, length), cache.empty(decoder.config, rows, 3)
    hidden = [both]
    for column in range(2):
        now = jnp.take_along_axis(tokens, PREFIX + kept[..., None] + column, axis=-1)
        h, buffer = cache.extend(decoder, now, prefix, suffix, kept, buffer, jnp.int32(column))
        hidden.append(h)
    return jnp.concatenate(hidden, axis=2)


def _jit(function, decoder, *arguments):
    graph, state = nnx.split(decoder)
    return jax.jit(lambda state, *a: function(nnx.merge(graph, state), *a))(state, *arguments)


def test_three_segments_equal_forward(decoder, tokens):
    last = _jit(_by_segments, decoder, tokens)
    wanted = _jit(_full, decoder, tokens)[..., -1, :]
    np.testing.assert_allclose(last, wanted, rtol=0, atol=1e-4)


def test_prefill_extend_commit_equal_forward(decoder, tokens):
    """Rows of different lengths: each commits 2, 1 or 0 tokens before the next step."""
    _check_cache(decoder, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_layer_is_cached(name):
    """Windows, soft caps, multipliers, norms of keys, and longrope that switches in the suffix."""
    decoder = _variant(name)
    _check_cache(decoder, _tokens(decoder))


def _check_cache(decoder, tokens):
    kept = jnp.array([[2, 1, 0], [0, 2, 1]], jnp.int32)
    hidden = np.asarray(_jit(_by_cache, decoder, tokens, kept))
    wanted = np.asarray(_jit(_full, decoder, tokens))[:, :, PREFIX:]
    np.testing.assert_allclose(hidden[:, :, :2], wanted[:, :, :2], rtol=0, atol=1e-4)
    for (p, n), start in np.ndenumerate(np.asarray(kept)):
        np.testing.assert_allclose(
            hidden[p, n, 2:], wanted[p, n, start : start + 2], rtol=0, atol=1e-4
        )


def test_a_suffix_of_int8_is_what_it_was_rounded_to(decoder, tokens):
    """The same hidden states as with the rounded numbers in float32, which are near the true ones."""

    def both(decoder, tokens):
        kept = jnp.full(tokens.shape[:2], 2, jnp.int32)
        prefix = cache.prefill(decoder, tokens[:, 0, :PREFIX], jnp.full((2,), PREFIX, jnp.int32))
        new = cache.empty(decoder.config, kept.shape, 2)
        step = tokens[..., PREFIX : PREFIX + 2]
        none = jnp.zeros_like(kept)
        blank = cache.empty(decoder.config, kept.shape, 6, jnp.int8)
        _, buffer = cache.extend(decoder, step, prefix, blank, none, new, jnp.int32(0))
        small = cache.commit(blank, buffer, none)
        k = tuple(
            x.astype(jnp.float32) * s[..., None, :]
            for x, s in zip(small.k, small.k_scale, strict=True)
        )
        v = tuple(
            x.astype(jnp.float32) * s[..., None]
            for x, s in zip(small.v, small.v_scale, strict=True)
        )
        last = tokens[..., -1:]
        suffixes = small, cache.KV(k, v)
        hidden = [
            cache.extend(decoder, last, prefix, kv, kept, new, jnp.int32(0))[0] for kv in suffixes
        ]
        return hidden, buffer, suffixes

    (h, same), buffer, (small, wide) = _jit(both, decoder, tokens)
    np.testing.assert_allclose(h, same, rtol=0, atol=1e-5)
    for parts, halves, true in (
        (wide.k, small.k_scale, buffer.k),
        (
            jax.tree.map(_transposed_back, wide.v),
            small.v_scale,
            jax.tree.map(_transposed_back, buffer.v),
        ),
    ):
        for x, s, y in zip(parts, halves, true, strict=True):
            assert (np.abs(x[..., :2] - y) <= 0.5001 * s[..., None, :2]).all() and (
                s[..., :2] > 0
            ).all()


def _transposed_back(v):
    return jnp.swapaxes(v, -1, -2)
