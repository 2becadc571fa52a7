"""n rows of m weighted candidates by any plain scheme: n and m may differ.

    E[copies of i] = n W_i        every copy is left the weight 1/n

Reference: Douc, Cappe and Moulines (2005), Comparison of resampling schemes for particle filtering,
section 2, whose schemes never ask that n = m. Target: leaves that of the weighted candidates
unchanged (unbiased). Unlike `optimal` it leaves equal weights and may repeat a candidate. Knows
nothing of particles.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_axes, require_count
from pfjax.smc.killing import killing, killing_rows
from pfjax.smc.resampling import (
    multinomial,
    multinomial_rows,
    stratified,
    stratified_rows,
    systematic,
    systematic_rows,
)
from pfjax.smc.residual import residual, residual_rows
from pfjax.smc.ssp import ssp, ssp_rows
from pfjax.smc.types import Resampler
from pfjax.smc.weights import usable


def choice(n: int, scheme: Resampler = systematic) -> Resampler:
    """n rows of the m that `log_w` has, each left the weight 1/n; for m = n it is `scheme`.

    With all dead it takes the first n rows, or the last one again where there are fewer. Raises
    `ValueError` for n < 1, or a scheme that is not one of the plain six.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax.smc import ssp
    >>> log_w = jnp.log(jnp.array([0.0, 0.5, 0.0, 0.5]))
    >>> rows, left, _ = choice(2, ssp)(jax.random.key(0), log_w, jnp.int32(1))
    >>> rows.tolist(), jnp.exp(left).tolist()
    ([1, 3], [0.5, 0.5])
    """
    n = require_count("n", n)
    if scheme not in _ROWS:
        known = ", ".join(s.__name__ for s in _ROWS)
        raise ValueError(
            f"scheme: got {scheme!r}, want one of {known}; `optimal(n)` chooses by itself"
        )
    rows_of = _ROWS[scheme]

    def choose(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch m"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        del t
        require_axes(key, log_w)
        return vmap_axes(lambda k, w: _choose(rows_of, k, w, n), key.ndim)(key, usable(log_w))

    return choose


def systematic_choice(n: int) -> Resampler:
    """`choice(n)`: |copies of i - n W_i| < 1.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.5, 0.0, 0.5]))
    >>> systematic_choice(2)(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 3]
    """
    return choice(n, systematic)


_Rows = Callable[[Key[Array, ""], Float[Array, "m"], int], Int[Array, "n"]]
_ROWS: dict[Resampler, _Rows] = {
    systematic: systematic_rows,
    stratified: stratified_rows,
    multinomial: multinomial_rows,
    residual: residual_rows,
    ssp: ssp_rows,
    killing: killing_rows,
}


def _choose(
    rows_of: _Rows, key: Key[Array, ""], log_w: Float[Array, "m"], n: int
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    alive = jnp.any(~jnp.isneginf(log_w))
    first = jnp.minimum(jnp.arange(n, dtype=jnp.int32), log_w.shape[0] - 1)
    rows = jnp.where(alive, rows_of(key, log_w, n), first)
    left = jnp.where(alive, -jnp.log(jnp.float32(n)), -jnp.inf)
    # Written with the rows, so that an explicit mesh sees their axes.
    return rows, jnp.where(rows == rows, left, 0.0), alive
