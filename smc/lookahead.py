"""Look-ahead: every particle makes m drafts of its next step, and n of the n m are kept.

    x^ij ~ M_t(x_t-1^i, .)    w^ij = W_t-1^i G_t(x^ij) / m    (A, w_left) ~ choice of n of n m
    L_t = L_t-1 sum_j w_left^j                                W_t = w_left / sum_j w_left^j

Reference: Fearnhead and Clifford (2003), On-line inference for hidden Markov models via particle
filters, section 2; Lew et al. (2023), Sequential Monte Carlo steering, for language models.
Knows nothing of devices or caches; `move` alone knows how rows are copied.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Key

from pfjax.smc._axes import particle_keys, per_problem, require_typed, split_in_two
from pfjax.smc._calls import drawn, moved, weighed_by
from pfjax.smc._checks import require_choice, require_count, require_model
from pfjax.smc._weighing import multiplied, start, weighed
from pfjax.smc.optimal import optimal
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import Algorithm, FeynmanKac, Info, Move, Resampler, State
from pfjax.smc.weights import normalise


def lookahead_filter(
    model: FeynmanKac,
    n: int,
    drafts: int,
    *,
    choose: Callable[[int], Resampler] = optimal,
    move: Move = gather,
) -> Algorithm:
    """A particle filter that sees its next step before it resamples: n kept of n * drafts weighed.

    Target: the path measure Q_t of `model`, by its weighted particles; E[exp(log_evidence)] = L_t
    exactly, for every n, drafts and choice of the contract; `choose(n)` is a resampler that returns
    n rows: `optimal` (none twice, unequal weights) or `systematic_choice`. A step costs n * drafts
    transitions and potentials, and no step is drawn again. With one draft `optimal` keeps all: the
    filter is then sequential importance sampling. Generation 0 too is chosen from n * drafts.
    Raises `ValueError` for n < 1, drafts < 1, a raw key, or log G of the wrong shape.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.bernoulli(key),
    ...     propagate=lambda key, x, t: jax.random.bernoulli(key),
    ...     log_potential=lambda x, t: jnp.where(x, 0.0, -jnp.inf),
    ... )
    >>> state, _ = smc.run(jax.random.key(0), smc.lookahead_filter(model, 5, drafts=4), 3)
    >>> bool(state.particles.all()), round(float(jnp.exp(state.log_weights[0])), 3)
    (True, 0.2)
    """
    require_model(model)
    n, drafts = require_count("n", n), require_count("drafts", drafts)
    require_choice(choose)
    num_candidates, keep_n = n * drafts, choose(n)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        k_choose, k_move = split_in_two(key)
        x = drawn(model, particle_keys(k_move, num_candidates))
        candidates = start(key, x, num_candidates)
        state, info = keep(k_choose, candidates)
        stay = per_problem(key, jnp.arange(n, dtype=jnp.int32))
        return state, info._replace(ancestors=stay)

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_choose, k_move = split_in_two(key)
        t = state.t + 1
        parents = jnp.repeat(jnp.arange(n, dtype=jnp.int32), drafts)
        x = move(state.particles, per_problem(key, parents))
        x = moved(model, particle_keys(k_move, num_candidates), x, t)
        log_w = jnp.repeat(state.log_weights, drafts, axis=-1) - jnp.log(jnp.float32(drafts))
        return keep(k_choose, state._replace(particles=x, log_weights=log_w, t=t))

    def keep(key: Key[Array, "*batch"], candidates: State) -> tuple[State, Info]:
        shape = candidates.log_weights.shape
        x, log_g = weighed_by(model, candidates.particles, candidates.t, shape)
        candidates, log_w, increment = multiplied(candidates, log_g)
        rows, left, chosen = keep_n(key, normalise(log_w), candidates.t)
        if rows.shape[-1] != n:
            raise ValueError(f"choose: got {rows.shape[-1]} rows from choose({n}), want {n}")
        # With every candidate dead the rows stay: the first draft of each parent.
        first = per_problem(key, jnp.arange(n, dtype=jnp.int32) * drafts)
        rows = jnp.where(jnp.isneginf(increment)[..., None], first, rows)
        kept = candidates._replace(particles=move(x, rows), log_weights=left)
        # What was chosen keeps the evidence only on average: its own sum is a factor too.
        kept, info = weighed(kept, jnp.zeros_like(left), rows // drafts, chosen)
        increment = increment + info.log_evidence_increment
        return kept, info._replace(log_evidence_increment=increment)

    return Algorithm(init, step)
