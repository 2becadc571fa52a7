"""Rows copied one after the other on a CPU, and `smc.gather`, are the same for in-place ancestors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc
from pfjax.models import cache
from pfjax.reasoning.move import move_in_place

LAYERS, HEADS, SIZE, COLUMNS = 2, 2, 3, 5
resample = jax.jit(smc.in_place(smc.systematic))
gather, move = jax.jit(smc.gather), jax.jit(move_in_place)


def particles(p: int, n: int) -> dict:
    """Content that tells rows apart, in several types."""
    draws = np.random.default_rng([p, n])

    def fresh(*shape, dtype=np.float32):
        return jnp.asarray(draws.permutation(p * n * int(np.prod(shape))), dtype).reshape(
            p, n, *shape
        )

    k = tuple(fresh(HEADS, SIZE, COLUMNS) for _ in range(LAYERS))
    v = tuple(fresh(HEADS, COLUMNS, SIZE, dtype=jnp.bfloat16) for _ in range(LAYERS))
    half = fresh(HEADS, SIZE, COLUMNS - 1, dtype=jnp.int8)
    return {
        "tokens": fresh(7, dtype=np.int32),
        "policy": cache.KV(k, v),
        "reward": (fresh(dtype=np.float32), cache.KV((half,), (half + 1,)), fresh() > 3),
    }


def sources(p: int, n: int, seed: int) -> jax.Array:
    """Ancestors of weights so uneven that many rows move, from another comb for each problem."""
    key, other = jax.random.split(jax.random.key(seed))
    log_w = 2 * jax.random.normal(other, (p, n))
    ancestors, _, _ = resample(jax.random.split(key, p), log_w, jnp.ones(p, jnp.int32))
    return ancestors


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def by_hand(particles, ancestors):
    """The definition, in numpy."""
    rows = np.arange(ancestors.shape[0])[:, None]
    return jax.tree.map(lambda x: np.asarray(x)[rows, np.asarray(ancestors)], particles)


@pytest.mark.parametrize("p, n", ((1, 1), (1, 9), (2, 6), (3, 8)))
def test_rows_that_move_are_those_of_gather(p, n):
    x, moved = particles(p, n), 0
    for seed in range(8):
        ancestors = sources(p, n, seed)
        slots = np.arange(n)
        assert (np.take_along_axis(np.asarray(ancestors), np.asarray(ancestors), 1)).tolist() == (
            ancestors.tolist()
        )
        moved += int((np.asarray(ancestors) != slots).sum())
        got = move(x, ancestors)
        assert_same(got, gather(x, ancestors))
        assert_same(got, by_hand(x, ancestors))
    assert moved >= 8 * p * (n - 1) // 5


@pytest.mark.parametrize("p, n", ((1, 4), (2, 5), (3, 7)))
def test_nothing_moves_or_one_row_fills_all(p, n):
    """Also at once: one problem stays while another has a single survivor."""
    x = particles(p, n)
    stay = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (p, n))
    assert_same(move(x, stay), x)
    for survivor in (0, n // 2, n - 1):
        one = jnp.full((p, n), survivor, jnp.int32)
        got = move(x, one)
        assert_same(got, by_hand(x, one))
        first = jax.tree.map(lambda leaf, s=survivor: leaf[:, s], x)
        for slot in range(n):
            assert_same(jax.tree.map(lambda leaf, s=slot: leaf[:, s], got), first)
        mixed = stay.at[-1].set(survivor)
        assert_same(move(x, mixed), by_hand(x, mixed))


@pytest.mark.parametrize("dtype", (jnp.int32, jnp.uint8))
def test_ancestors_of_any_integer_type_outside_of_jit(dtype):
    x, ancestors = particles(2, 6), sources(2, 6, 1)
    assert_same(move_in_place(x, ancestors.astype(dtype)), by_hand(x, ancestors))


def test_a_problem_keeps_to_its_own_rows():
    """Each problem moves as it would alone."""
    x, ancestors = particles(3, 8), sources(3, 8, 2)
    together = move(x, ancestors)
    for i in range(3):
        alone = move(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], x), ancestors[i : i + 1])
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together), alone)


def compiled(x) -> str:
    ancestors = sources(2, 6, 0)
    text = jax.jit(move_in_place, donate_argnums=0).lower(x, ancestors).compile().as_text()
    assert text is not None
    return text


def test_a_cpu_runs_the_loop_and_gathers_no_cache():
    """Caches are updated in a loop, none of their arrays is gathered; plain leaves are."""
    x = particles(2, 6)
    loops = [line for line in compiled(x).splitlines() if " while(" in line]
    assert any(f"{HEADS},{SIZE},{COLUMNS}]" in line for line in loops)
    gathered = [line for line in compiled(x).splitlines() if " gather(" in line]
    assert gathered and not any(f"{COLUMNS}" in line.split(" gather(")[0] for line in gathered)


def test_other_platforms_gather():
    """Lowered for a GPU the loop is gone."""
    x, ancestors = particles(2, 6), sources(2, 6, 0)
    traced = jax.jit(move_in_place).trace(x, ancestors)
    loop = "stablehlo.while"
    assert loop in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert loop not in traced.lower(lowering_platforms=("cuda",)).as_text()
