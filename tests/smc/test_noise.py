"""Normals from the words of keys: their law, their independence, and refusals.

Fixed keys; with all thresholds together a correct generator fails with probability below 0.3 %.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from pfjax import smc
from pfjax.smc._axes import particle_keys

N = 200_000


@pytest.fixture(scope="module", params=[2, 5])
def draws(request):
    """[d, 2, N]: two consecutive steps of a filter, as models see them."""
    steps = jax.vmap(lambda t: jax.random.fold_in(jax.random.key(11), t))(jnp.arange(2))
    draw = jax.jit(lambda steps: smc.normals(particle_keys(steps, N), request.param))
    return np.asarray(draw(steps), float)


def test_moments_and_tails(draws):
    rows = draws.reshape(-1, N)
    for power in (1, 2, 3, 4):
        exact = (0, 1, 0, 3)[power - 1]
        spread = (1, 2, 15, 96)[power - 1]
        z = (rows**power).mean(1) - exact
        assert np.abs(z / np.sqrt(spread / N)).max() < 4.5, power
    beyond = (np.abs(rows) > 3).mean(1)
    p = 2 * special.ndtr(-3)
    assert (np.abs(beyond - p) < 4.5 * np.sqrt(p / N)).all()


def test_the_law_is_normal(draws):
    for row in draws.reshape(-1, N):
        assert stats.kstest(row, "norm").pvalue > 1e-4


def test_words_steps_and_neighbours_are_independent(draws):
    rows = draws.reshape(-1, N)
    correlation = np.corrcoef(np.concatenate([rows, rows**2]))
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / np.sqrt(N)
    assert np.abs((rows[:, 1:] * rows[:, :-1]).mean(1)).max() < 4.5 / np.sqrt(N)


def test_every_word_gives_a_finite_number_and_its_mirror_image():
    words = np.uint32([[0x80000000, 0x7FFFFFFF], [0x800000FF, 0x00000000], [0xFFFFFFFF, 0xFF]])
    z = np.asarray(smc.normals(jax.random.wrap_key_data(words), 2))
    exact = special.ndtri((np.float64(words.view(np.int32) // 256) + 0.5) / 2**24 + 0.5)
    np.testing.assert_allclose(z.T, exact, rtol=1e-5)
    assert z[0, 0] == -z[1, 0] == z[0, 1] and z[1, 1] == -z[0, 2] == z[1, 2]


def test_a_filter_with_words_is_unbiased():
    """E[Z_hat] for one step of x_1 = 0.8 x_0 + 0.5 z, G = exp(x_1 - 0.3): the log-normal mean."""
    model = smc.FeynmanKac(
        init=lambda keys: smc.normals(keys, 1)[0],
        propagate=lambda keys, x, t: 0.8 * x + 0.5 * smc.normals(keys, 1)[0],
        weigh=lambda x, t: (x, jnp.where(t[..., None] == 0, -(x**2), x - 0.3)),
    )
    keys = jax.random.split(jax.random.key(2), 20_000)
    pf = smc.particle_filter(model, 8, smc.systematic)
    z_hat = np.exp(np.asarray(jax.jit(lambda k: smc.run(k, pf, 2)[0])(keys).log_evidence, float))
    # N(0, 1) exp(-x^2) = 3^-1/2 N(0, 1/3).
    exact = 3**-0.5 * np.exp(-0.3 + 0.5 * (0.64 / 3 + 0.25))
    assert abs(z_hat.mean() - exact) < 4 * z_hat.std() / np.sqrt(len(keys))
    assert z_hat.std() / np.sqrt(len(keys)) < 0.005 * exact


def test_refusals():
    with pytest.raises(ValueError, match="want a typed key"):
        smc.normals(jax.random.PRNGKey(0), 1)
    with pytest.raises(ValueError, match="d: got 0 normals"):
        smc.normals(jax.random.split(jax.random.key(0)), 0)
