"""Srinivasan sampling process: random rounding of N W_i by pairs, with counts as even as systematic.

    a, b in [0, 1), s = a + b:    s < 1: (s, 0) with probability a / s,             else (0, s)
                                  s >= 1: (1, s - 1) with probability (1-b)/(2-s),  else (s - 1, 1)

Reference: Gerber, Chopin and Whiteley (2019), Negative association, ordering and convergence of
resampling methods, algorithm SSP (after Srinivasan 2001). There one particle meets all others in
turn; here neighbours meet in a knock-out tournament, log2 N rounds. Any order of pairs gives the
right means and negative association. Target: leaves that of the weighted particles unchanged
(unbiased). Knows nothing of particles or of when to resample.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from pfjax.smc._ancestors import ancestors_from_ends, plainly
from pfjax.smc._fixed_point import exact_prefix_sum, expected_copies


def ssp(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """SSP resampling: |copies of i - N W_i| < 1, negatively associated; ancestors are sorted.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.75, 0.0, 0.25]))
    >>> ssp(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 1, 1, 3]
    """
    del t
    return plainly(ssp_rows, key, log_w)


def ssp_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    whole, part = expected_copies(log_w, n)
    end = exact_prefix_sum(whole + _rounded(key, part))
    return ancestors_from_ends(end, n)


def _rounded(key: Key[Array, ""], part: UInt[Array, "n"]) -> Int[Array, "n"]:
    """0 or 1 for each part / 2^32, with that mean; as many ones as the parts sum to."""
    n = part.shape[0]
    # Written with part, so that an explicit mesh sees its axes.
    player = jnp.arange(n, dtype=jnp.int32) + 0 * part.astype(jnp.int32)
    u = jax.random.uniform(key, (n + n.bit_length(),), jnp.float32)
    leavers, verdicts = [], []
    while part.shape[0] > 1:
        # A dummy of part 0 makes the number even, and leaves with 0 into no slot.
        if part.shape[0] % 2:
            part = jnp.concatenate([part, 0 * part[:1]])
            player = jnp.concatenate([player, 0 * player[:1] + n])
        num_pairs = part.shape[0] // 2
        part, player, leaver, verdict = _meet(
            u[:num_pairs], part.reshape(-1, 2), player.reshape(-1, 2)
        )
        u = u[num_pairs:]
        leavers.append(leaver)
        verdicts.append(verdict)
    if not leavers:
        return jnp.zeros(n, jnp.int32)
    at, bit = jnp.concatenate(leavers), jnp.concatenate(verdicts)
    return jnp.zeros(n, jnp.int32).at[at].set(bit, mode="drop")


def _meet(
    u: Float[Array, "pairs"], part: UInt[Array, "pairs 2"], player: Int[Array, "pairs 2"]
) -> tuple[UInt[Array, "pairs"], Int[Array, "pairs"], Int[Array, "pairs"], Int[Array, "pairs"]]:
    """One player of each pair leaves with 0 or 1, the other goes on with what is left of the sum."""
    a, b = part[:, 0], part[:, 1]
    rest = a + b
    over = rest < a
    # (1 - b) / (2 - s) is the same ratio in 1 - a and 1 - b; a part of 0 always leaves with 0.
    first = jnp.where(over, jnp.uint32(0) - b, a).astype(jnp.float32)
    second = jnp.where(over, jnp.uint32(0) - a, b).astype(jnp.float32)
    first_wins = u * (first + second) < first
    first_stays = first_wins ^ over
    stays = jnp.where(first_stays, player[:, 0], player[:, 1])
    leaves = jnp.where(first_stays, player[:, 1], player[:, 0])
    return rest, stays, leaves, over.astype(jnp.int32)
