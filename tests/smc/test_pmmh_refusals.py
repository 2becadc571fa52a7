"""What is not finite is refused and left; what is not a family, a proposal or a count is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

T = 3


def family() -> smc.ModelFamily:
    """theta is 0 or 1, and so are all states."""
    model = lambda theta: smc.lift(lambda key: theta, lambda key, x, t: x, lambda x, t: 0.0)  # noqa: E731
    return smc.ModelFamily(
        lambda key: jax.random.bernoulli(key).astype(jnp.int32), lambda theta: jnp.float32(0), model
    )


def other(key, theta):
    return 1 - theta, jnp.float32(0)


@pytest.fixture(scope="module")
def stepping_onto_one():
    """Five steps of chains between thetas 0 and 1, where one of three things of theta = 1 is bad."""

    def kernel(bad, value):
        def at_one(where, theta):
            return jnp.where((theta == 1) & (bad == where), value, 0.0)

        def log_g(x, t):
            return jnp.where(t == 2, at_one(1, x), 0.0)

        family = smc.ModelFamily(
            lambda key: jax.random.bernoulli(key).astype(jnp.int32),
            lambda theta: at_one(0, theta),
            lambda theta: smc.lift(lambda key: theta, lambda key, x, t: x, log_g),
        )
        return smc.pmmh(family, 4, T, lambda key, theta: (1 - theta, at_one(2, 1 - theta)))

    @jax.jit
    def run(keys, bad, value):
        return smc.run(keys, kernel(bad, value), 5, lambda chain, move: (chain, move))[1]

    return run


@pytest.mark.parametrize("bad", ["prior", "estimate", "ratio"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(stepping_onto_one, bad, value):
    """And left, where the chain begins there."""
    where = jnp.int32(["prior", "estimate", "ratio"].index(bad))
    keys = jax.random.split(jax.random.key(0), 40)
    chain, move = jax.tree.map(np.asarray, stepping_onto_one(keys, where, jnp.float32(value)))
    assert set(chain.theta[0]) == {0, 1} and not np.isnan(move.acceptance_rate).any()
    assert not np.isnan(chain.log_evidence).any() and not np.isnan(chain.evidence_error).any()
    assert (chain.theta[1:] == 0).all() and (chain.path[1:] == chain.theta[1:, None]).all()
    assert (move.accepted[1] == (chain.theta[0] == 1)).all() and not move.accepted[2:].any()


def test_refusals():
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.pmmh(family(), 0, T, other)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.pmmh(family(), 4, T, other).init(jax.random.PRNGKey(0))
    key = jax.random.key(0)
    for proposal, message in [
        (0.5, r"proposal: got a scale for a theta that is not floating point"),
        (lambda key, theta: theta, r"proposal: got something else than \(theta', log-ratio\)"),
        (
            lambda key, theta: (jnp.float32(theta), jnp.float32(0)),
            r"got something else than \(theta'",
        ),
    ]:
        kernel = smc.pmmh(family(), 4, T, proposal)
        with pytest.raises(ValueError, match=message):
            kernel.step(key, kernel.init(key)[0])
    none = smc.ModelFamily(lambda key: jnp.int32(0), lambda theta: 0.0, lambda theta: theta)
    with pytest.raises(ValueError, match="family.model: got a .*, want a FeynmanKac"):
        smc.pmmh(none, 4, T, other).init(key)
