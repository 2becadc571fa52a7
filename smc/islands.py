"""Islands: particle systems that run apart and are themselves weighted and resampled.

    island i of generation t-1 is B_i of I, drawn by the island weights O    O_left as particles do
    every island makes a step of its own:    v_i = O_left^i sum_j w_left^ij G_t^ij
    L_t = L_t-1 sum_i v_i      O_i = v_i / sum_k v_k       weight of a particle: O_i W_t^ij

Reference: Verge, Dubarry, Del Moral and Moulines (2015), On parallel implementation of sequential
Monte Carlo methods: the island particle model, algorithm 2 (double bootstrap), with O carried when
islands are not resampled. The number of islands is part of the model and never that of the devices:
sharding rows over devices changes no bit. Knows nothing of what an island runs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, per_problem, require_typed, split_in_two
from pfjax.smc._weighing import status
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import Algorithm, Info, Resampler, State
from pfjax.smc.weights import log_ratio, log_sum_exp, normalise
from pfjax.smc.wrappers import adaptive_systematic


def islands(
    algorithm: Algorithm, num_islands: int, exchange: Resampler = adaptive_systematic
) -> Algorithm:
    """num_islands copies of `algorithm`, whole islands being resampled by `exchange`.

    Target: that of `algorithm`, by num_islands * n weighted rows, those of an island side by side;
    E[exp(log_evidence)] is unbiased whenever that of `algorithm` is, for every exchange of the
    contract: `when(every(k), in_place(systematic))`, or by default when the effective number of
    islands is below half. Ancestors are rows among all islands. Between exchanges an island needs
    nothing of the others but the sum of their weights. All islands must have the same target, so
    not `adaptive_tempering`. Raises `ValueError` for num_islands < 1 or a raw key.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> exchange = smc.when(smc.every(4), smc.in_place(smc.systematic))
    >>> algorithm = smc.islands(smc.particle_filter(model, 100), 8, exchange)
    >>> state, infos = smc.run(jax.random.key(0), algorithm, 10)
    >>> state.particles.shape, infos.ess.shape
    ((800,), (10,))
    """
    if num_islands < 1:
        raise ValueError(f"num_islands: got {num_islands}, want at least 1")

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        _, k_inner = split_in_two(key)
        inner, info = algorithm.init(particle_keys(k_inner, num_islands))
        inner = inner._replace(log_evidence=inner.log_evidence - jnp.log(jnp.float32(num_islands)))
        zero = per_problem(key, jnp.float32(0))
        stay = per_problem(key, jnp.arange(num_islands, dtype=jnp.int32))
        return together(zero, inner, info, stay, per_problem(key, jnp.array(False)))

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_exchange, k_inner = split_in_two(key)
        apart = _apart(state, num_islands)
        ancestors, left, resampled = exchange(k_exchange, apart.log_evidence, state.t + 1)
        rows = (apart.particles, apart.log_weights)
        x, log_w = _exchanged(rows, ancestors, resampled)
        inner, info = algorithm.step(
            particle_keys(k_inner, num_islands), State(x, log_w, left, apart.t)
        )
        return together(state.log_evidence, inner, info, ancestors, resampled)

    def together(
        log_evidence: Float[Array, "*batch"],
        inner: State,
        info: Info,
        island: Int[Array, "*batch islands"],
        exchanged: Bool[Array, "*batch"],
    ) -> tuple[State, Info]:
        evidence = inner.log_evidence
        increment = log_sum_exp(evidence)
        log_w = log_ratio(inner.log_weights + evidence[..., None], increment[..., None, None])
        n = log_w.shape[-1]
        rows = island[..., None] * n + info.ancestors
        info = Info(
            ancestors=_flat(rows, evidence.ndim),
            ess=_effective_sample_size(normalise(evidence), info.ess),
            resampled=exchanged | jnp.any(info.resampled, axis=-1),
            log_evidence_increment=increment,
            status=status(increment),
        )
        state = State(
            jax.tree.map(lambda leaf: _flat(leaf, evidence.ndim), inner.particles),
            _flat(log_w, evidence.ndim),
            log_evidence + increment,
            inner.t[..., 0],
        )
        return state, info

    return Algorithm(init, step)


def _flat(rows: Array, axis: int) -> Array:
    """Rows [..., islands, n, ...] as [..., islands * n, ...]; `axis` is that of the n."""
    return rows.reshape(*rows.shape[: axis - 1], -1, *rows.shape[axis + 1 :])


def _apart(state: State, num_islands: int) -> State:
    """Every island as a problem of its own, whose evidence is its weight among the islands."""
    axis = state.log_weights.ndim - 1

    def split(rows: Array) -> Array:
        return rows.reshape(*rows.shape[:axis], num_islands, -1, *rows.shape[axis + 1 :])

    log_w = split(state.log_weights)
    return State(
        jax.tree.map(split, state.particles),
        normalise(log_w),
        log_sum_exp(log_w),
        jnp.broadcast_to(state.t[..., None], (*state.t.shape, num_islands)),
    )


def _exchanged(
    rows: PyTree[Array], ancestors: Int[Array, "*batch islands"], resampled: Bool[Array, "*batch"]
) -> PyTree[Array]:
    # Between devices rows travel only when they must: not a select but a branch.
    return jax.lax.cond(jnp.any(resampled), lambda: gather(rows, ancestors), lambda: rows)


def _effective_sample_size(
    log_o: Float[Array, "*batch islands"], ess: Float[Array, "*batch islands"]
) -> Float[Array, "*batch"]:
    """That of all rows, from the island weights and the effective sample size of each island."""
    log_squares = log_sum_exp(log_ratio(2 * log_o, jnp.log(jnp.where(ess > 0, ess, 1.0))))
    dead = jnp.isneginf(log_squares)
    return jnp.where(dead, 0.0, jnp.exp(-jnp.where(dead, 0.0, log_squares)))
