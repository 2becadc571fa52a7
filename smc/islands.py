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
from pfjax.smc._calls import resampled_by
from pfjax.smc._checks import require_a, require_algorithm, require_count, require_plain
from pfjax.smc._weighing import not_finite, shifted, start
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import ALL_DEAD, NOT_FINITE, Algorithm, Info, Resampler, State, bounded
from pfjax.smc.weights import add_exactly, log_ratio, log_sum_exp, normalise
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
    num_islands = require_count("num_islands", num_islands)
    require_plain(exchange, "exchange")
    require_algorithm(algorithm)
    if algorithm.horizon.reads_evidence:
        raise ValueError(
            "algorithm: got one that weighs its particles by its own evidence, want one that does not, "
            "such as smc.tempering; islands of persistent_sampling would be weighed wrongly"
        )
    if algorithm.horizon.done is not None:
        raise ValueError(
            "algorithm: got one that chooses its targets from its particles, want one whose islands "
            "all have the same target, such as smc.tempering with a fixed schedule"
        )

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        _, k_inner = split_in_two(key)
        inner, info = algorithm.init(particle_keys(k_inner, num_islands))
        require_a("algorithm", inner, State, "islands are for filters and samplers")
        share = -jnp.log(jnp.full_like(inner.log_evidence, num_islands))
        evidence, error = add_exactly(inner.log_evidence, inner.evidence_error, share)
        inner = inner._replace(log_evidence=evidence, evidence_error=error)
        stay = per_problem(key, jnp.arange(num_islands, dtype=jnp.int32))
        none = per_problem(key, jnp.array(False))
        return together(start(key, (), 1), inner, info, stay, none)

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_exchange, k_inner = split_in_two(key)
        apart = _apart(state, num_islands)
        ancestors, left, resampled = resampled_by(
            exchange, k_exchange, apart.log_evidence, state.t + 1
        )
        rows = (apart.particles, apart.log_weights)
        x, log_w = _exchanged(rows, ancestors, resampled)
        inner, info = algorithm.step(
            particle_keys(k_inner, num_islands),
            apart._replace(particles=x, log_weights=log_w, log_evidence=left),
        )
        return together(state, inner, info, ancestors, resampled)

    def together(
        before: State,
        inner: State,
        info: Info,
        island: Int[Array, "*batch islands"],
        exchanged: Bool[Array, "*batch"],
    ) -> tuple[State, Info]:
        # Whose log-weight among the islands is large: less the largest, before it is rounded.
        nothing = jnp.zeros_like(inner.log_evidence)
        log_o, peak, _ = shifted(nothing, inner.log_evidence)
        log_o = log_o + inner.evidence_error
        rest = log_sum_exp(log_o)
        log_w = log_ratio(inner.log_weights + log_o[..., None], rest[..., None, None])
        n = log_w.shape[-1]
        rows = island[..., None] * n + info.ancestors
        status = before.status | not_finite(inner.status & NOT_FINITE > 0)
        status = status | ALL_DEAD * jnp.isneginf(rest).astype(jnp.int32)
        evidence, error = add_exactly(before.log_evidence, before.evidence_error, peak, rest)
        info = Info(
            ancestors=_flat(rows, log_o.ndim),
            ess=_effective_sample_size(normalise(log_o), info.ess),
            resampled=exchanged | jnp.any(info.resampled, axis=-1),
            log_evidence_increment=peak + rest,
            status=status,
            kernel=info.kernel,
        )
        state = State(
            particles=jax.tree.map(lambda leaf: _flat(leaf, log_o.ndim), inner.particles),
            log_weights=_flat(log_w, log_o.ndim),
            log_evidence=evidence,
            t=inner.t[..., 0],
            evidence_error=error,
            status=status,
        )
        return state, info

    return bounded(Algorithm(init, step), algorithm.horizon)


def _flat(rows: Array, axis: int) -> Array:
    """Rows [..., islands, n, ...] as [..., islands * n, ...]; `axis` is that of the n."""
    return rows.reshape(*rows.shape[: axis - 1], -1, *rows.shape[axis + 1 :])


def _apart(state: State, num_islands: int) -> State:
    """Every island as a problem of its own, whose evidence is its weight among the islands."""
    axis = state.log_weights.ndim - 1

    def split(rows: Array) -> Array:
        return rows.reshape(*rows.shape[:axis], num_islands, -1, *rows.shape[axis + 1 :])

    def each(number: Array) -> Array:
        return jnp.broadcast_to(number[..., None], (*number.shape, num_islands))

    log_w = split(state.log_weights)
    return State(
        particles=jax.tree.map(split, state.particles),
        log_weights=normalise(log_w),
        log_evidence=log_sum_exp(log_w),
        t=each(state.t),
        evidence_error=jnp.zeros_like(log_w[..., 0]),
        status=each(jnp.zeros_like(state.status)),
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
