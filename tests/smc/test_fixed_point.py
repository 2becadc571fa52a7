"""Fixed-point expected copies: against float64 and against Python integers of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax.smc import _fixed_point

INF = float("inf")
copies = jax.jit(_fixed_point.expected_copies, static_argnums=1)
cumulative = jax.jit(_fixed_point.cumulative_copies, static_argnums=1)
at_run_time = jax.jit(_fixed_point.expected_copies)
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def linear(log_w) -> np.ndarray:
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def assert_expected_copies(log_w, total: int):
    log_w = np.asarray(log_w, np.float32)
    whole, part = (np.asarray(x).astype(object) for x in copies(log_w, total))
    exactly = [int(k) * 2**32 + int(f) for k, f in zip(whole, part, strict=True)]
    assert sum(exactly) == total * 2**32 and min(exactly) >= 0
    value, w = np.array(exactly) / 2**32, linear(log_w)
    bound = 2.0**-27 * total * w + 2.0**-30 + total / 2**40
    assert (np.abs(value - total * w) <= bound).all()
    assert (value[log_w == -INF] == 0).all()
    whole_sum, part_sum = (np.asarray(x).astype(object) for x in cumulative(log_w, total))
    assert (whole_sum * 2**32 + part_sum == np.cumsum(np.array(exactly, object))).all()


@COMPILES
@given(
    log_w=st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=17, max_size=17
    ).filter(lambda log_w: max(log_w) > -INF),
    total=st.sampled_from([17, 1, 2**24 - 1]),
)
def test_expected_copies(log_w, total):
    assert_expected_copies(log_w, total)


@pytest.mark.parametrize("peak", [1e10, -1e10, 1e38])
def test_expected_copies_far_from_zero(peak):
    """Where the largest log-weight less 64 is itself."""
    log_w = np.full(17, peak, np.float32)
    log_w[3] = -INF
    assert_expected_copies(log_w, 17)


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 30.0])
def test_expected_copies_of_many(spread):
    rng = np.random.default_rng(1)
    log_w = spread * rng.normal(size=2**16)
    log_w[rng.random(2**16) < 0.3] = -INF
    assert_expected_copies(log_w.astype(np.float32), 2**16)


def test_a_heavy_particle_among_many():
    """Half of the weight in one particle: float32 would be off by 0.03 copies or more."""
    n = 2**20
    log_w = jnp.zeros(n).at[12345].set(jnp.log(float(n)) + 1.7e-3)
    whole, part = copies(log_w, n)
    exact = n * linear(log_w)[12345]
    assert abs(int(whole[12345]) + int(part[12345]) / 2**32 - exact) < 2**-27 * exact


def test_all_dead_have_no_copies():
    for function in (copies, cumulative):
        whole, part = function(jnp.full(5, -jnp.inf), 5)
        assert not whole.any() and not part.any()


@pytest.mark.parametrize("total", [0, 1, 6, 4097])
def test_a_total_known_only_at_run_time(total):
    log_w = jnp.log(jnp.array([0.1, 0.0, 0.2, 0.7]))
    whole, part = (np.asarray(x).astype(object) for x in at_run_time(log_w, jnp.int32(total)))
    value = (whole + part / 2**32).astype(float)
    np.testing.assert_allclose(value, total * linear(log_w), rtol=2.0**-20, atol=2.0**-20)
    assert sum(whole * 2**32 + part) == total * 2**32


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 4097])
def test_prefix_sums(n):
    rng = np.random.default_rng(n)
    part = rng.integers(0, 2**32, n, dtype=np.uint32)
    whole = rng.integers(0, 1000, n, dtype=np.int32)
    assert (jax.jit(_fixed_point.exact_prefix_sum)(part) == np.cumsum(part, dtype=np.uint32)).all()
    sums = np.cumsum(whole.astype(object) * 2**32 + part.astype(object))
    whole_sum, part_sum = map(np.asarray, jax.jit(_fixed_point.running_copies)(whole, part))
    assert (whole_sum == sums // 2**32).all() and (part_sum == sums % 2**32).all()


def test_the_two_forms_of_the_prefix_sum_agree():
    x = jax.random.bits(jax.random.key(0), (5000,))
    assert (_fixed_point._sum_by_blocks(x) == _fixed_point._sum_by_scan(x)).all()
