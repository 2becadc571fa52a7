"""The table of all 364 sequences, and the filter that samples them.

Unbiasedness: 20 000 filters, |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

VOCABULARY, LENGTH, NUM_FILTERS, N = 4, 5, 20_000, 8
LOGITS = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY))
TABLE = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def everything(start=(), p=1.0, previous=0):
    """Yields every finished sequence, without padding, and its probability."""
    if len(start) == LENGTH or (start and previous == 0):
        yield start, p
        return
    for token in range(VOCABULARY):
        yield from everything((*start, token), p * TABLE[previous, token], token)


LISTED = {s + (0,) * (LENGTH - len(s)): p for s, p in everything()}
PSI = {s: np.exp(0.7 * s.count(2)) for s in LISTED}
Z = sum(p * PSI[s] for s, p in LISTED.items())


def test_the_oracle_is_the_published_number():
    assert len(LISTED) == 364 and abs(sum(LISTED.values()) - 1) < 1e-12
    assert abs(np.log(Z) - 1.0247859317) < 1e-10


def test_enumeration():
    every = smc.enumerate_sequences(jnp.log(jnp.float32(TABLE)), LENGTH)
    found = dict(zip(map(tuple, every.tokens.tolist()), np.exp(every.log_prob), strict=True))
    assert found.keys() == LISTED.keys()
    np.testing.assert_allclose([found[s] for s in LISTED], list(LISTED.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def filters():
    @jax.jit
    def run(keys):
        model = smc.tabular_language_model(
            jnp.log(jnp.float32(TABLE)), LENGTH, lambda s: 0.7 * jnp.sum((s == 2).astype(float))
        )
        return smc.run(keys, smc.particle_filter(model, N, smc.systematic), LENGTH)[0]

    state = run(jax.random.split(jax.random.key(9), NUM_FILTERS))
    return jax.tree.map(np.asarray, state)


@pytest.mark.parametrize(
    "f",
    [
        lambda s: 0 * s[..., 0] + 1,
        lambda s: (s != 0).sum(-1) ** 2,
        lambda s: (s[..., 0] == 1) * (1 + s[..., 2]),
        lambda s: (s[..., -1] == 3) + 2 * (s[..., 1] == 0),
    ],
    ids=["evidence", "length", "first and third", "last"],
)
def test_unbiased(filters, f):
    sequences = np.array(list(LISTED))
    weights = np.array([p * PSI[tuple(s)] for s, p in LISTED.items()]) / Z
    w = np.exp(np.float64(filters.log_weights))
    ratio = np.exp(np.float64(filters.log_evidence)) / Z
    estimate = ratio * (w * f(filters.particles.tokens)).sum(1)
    error = estimate.std() / np.sqrt(NUM_FILTERS)
    assert abs(estimate.mean() - weights @ f(sequences)) < 4 * error
    assert error < 0.015 * estimate.mean()


def test_particles_know_their_probability(filters):
    tokens = filters.particles.tokens[:500].reshape(-1, LENGTH)
    expected = [LISTED[tuple(s)] for s in tokens.tolist()]
    log_prob = filters.particles.log_prob[:500].ravel()
    np.testing.assert_allclose(log_prob, np.log(expected), rtol=1e-5, atol=1e-6)
