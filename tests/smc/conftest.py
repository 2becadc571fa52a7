"""Oracles that share no code with pfjax.smc: an enumerated 2-state hidden Markov model."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

START = np.array([0.6, 0.4])
MOVE = np.array([[0.7, 0.3], [0.4, 0.6]])
EMIT = np.array([[0.5, 0.4, 0.1], [0.1, 0.3, 0.6]])
SEEN = np.array([0, 1, 2, 2, 1, 0, 2])


# Modules that compile many programs: slow ones, whose own slow tests are exhaustive, and those that are all exhaustive.
SLOW = "additive annealed arviz_export auxiliary backward choice estimates fixed_lag fixed_point "
SLOW += "hidden_markov ibis islands kernels linear_gaussian lookahead persistent pmmh "
SLOW += "pmmh_refusals policies resampling tuning waste_free"
EXHAUSTIVE = "conditional conditional_filter mesh noise optimal parallel_tempering paris "
EXHAUSTIVE += "particle_gibbs samplers smc_squared state_space stochastic_volatility tabular "
EXHAUSTIVE += "tempering transformers variants variants_hmm"
# Modules and tests about bits and roundings, which are compiled as a user's programs are.
EXACT_MODULES = "mesh resampling runners transformers weighing x64".split()
EXACT_WORDS = ("bit", "device", "float", "round", "gradient")
QUICKLY = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests of this folder into fast, slow and exhaustive ones, and says which compile quickly."""
    here = [i for i in items if i.path.parent == Path(__file__).parent]
    for item in here:
        module = _module(item)
        is_slow = item.get_closest_marker("slow") is not None
        if module in EXHAUSTIVE.split() or (is_slow and module in SLOW.split()):
            item.add_marker("exhaustive")
        is_exhaustive = item.get_closest_marker("exhaustive") is not None
        if is_exhaustive or module in f"{SLOW} {EXHAUSTIVE}".split():
            item.add_marker("slow")
    # What an exact test takes from a fixture of its file is compiled as it is, whichever test asks first.
    exact = {fixture for item in here if _is_exact(item) for fixture in _fixtures(item)}
    for item in here:
        is_slow = item.get_closest_marker("slow") is not None
        is_alone = not exact & _fixtures(item)
        item.stash[QUICKLY] = is_slow and not _is_exact(item) and is_alone


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Compiles slow statistics quickly: a law does not depend on how, and most of their time is compilation."""
    jax.config.update("jax_disable_most_optimizations", item.stash.get(QUICKLY, False))
    result = yield
    jax.config.update("jax_disable_most_optimizations", False)
    return result


def _module(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


def _is_exact(item: pytest.Item) -> bool:
    return _module(item) in EXACT_MODULES or any(word in item.name for word in EXACT_WORDS)


def _fixtures(item: pytest.Item) -> set[tuple[str, str]]:
    """Those of its own file."""
    return {(_module(item), name) for name in item.fixturenames if hasattr(item.module, name)}


class Hmm(NamedTuple):
    """A Feynman-Kac model whose particles are whole paths, with its exact answers."""

    model: smc.FeynmanKac
    num_steps: int
    log_evidence: float
    posterior_mean: Callable


def _forward() -> float:
    """log p(observations) by the forward algorithm."""
    alpha = START * EMIT[:, SEEN[0]]
    total = np.log(alpha.sum())
    for symbol in SEEN[1:]:
        alpha = (alpha / alpha.sum()) @ MOVE * EMIT[:, symbol]
        total += np.log(alpha.sum())
    return total


def _posterior_mean(f: Callable) -> float:
    """Mean of f over all 2^7 paths, weighted by their joint probability with the observations."""
    paths = np.array(list(itertools.product([0, 1], repeat=len(SEEN))))
    joint = (
        START[paths[:, 0]] * EMIT[paths, SEEN].prod(1) * MOVE[paths[:, :-1], paths[:, 1:]].prod(1)
    )
    return float(joint @ f(paths) / joint.sum())


@pytest.fixture(scope="session")
def hmm() -> Hmm:
    log_start, log_move, log_emit = (jnp.log(jnp.float32(p)) for p in (START, MOVE, EMIT))
    seen = jnp.asarray(SEEN, jnp.int32)

    def init(key):
        first = jax.random.categorical(key, log_start)
        return jnp.zeros(len(SEEN), jnp.int32).at[0].set(first.astype(jnp.int32))

    def propagate(key, path, t):
        return path.at[t].set(jax.random.categorical(key, log_move[path[t - 1]]).astype(jnp.int32))

    def log_potential(path, t):
        return log_emit[path[t], seen[t]]

    model = smc.lift(init, propagate, log_potential)
    return Hmm(model, len(SEEN), _forward(), _posterior_mean)


@pytest.fixture(scope="session")
def autoregression() -> smc.FeynmanKac:
    """A model that is elementwise in the particle; some particles die (log G = -inf)."""

    def log_potential(x, t):
        return jnp.where(x > 0.9, -jnp.inf, -2.0 * (x - 0.1 * t.astype(jnp.float32)) ** 2)

    return smc.lift(
        init=lambda key: jax.random.uniform(key),
        propagate=lambda key, x, t: 0.9 * x + jax.random.uniform(key) - 0.3,
        log_potential=log_potential,
    )
