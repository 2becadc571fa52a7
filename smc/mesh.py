"""One problem's particles on many devices, with the same bits on any number of them.

    log W on every device    A = resampler(log W) on every device    x_j <- x_A[j] by collectives

A choice made from shards depends on their number; one made from all n log-weights does not, and
they are little beside the rows. Three wrappers go together, for a model, a resampler and the move
of a `particle_filter` (see `on_mesh`), on Auto and Explicit axes alike; other axes of the mesh
(problems) stay as they are. Equal bits need a model that is elementwise in the particle: a matrix
product may round differently in another shape.
Reference: Murray, Lee and Jacob (2016), Parallel resampling in the particle filter, section 3.
Targets are unchanged. Knows nothing of weights or of how ancestors are drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_axis, require_count
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import FeynmanKac, Move, Resampler, marked_like


def on_mesh(resampler: Resampler, mesh: Mesh, axis: str = "particle") -> Resampler:
    """`resampler` run by every device on all n log-weights, so that the devices agree bit by bit.

    Ancestors and weights come back whole on every device of the axis, for 4 n bytes received.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> mesh = jax.make_mesh((jax.device_count(),), ("particle",))
    >>> pf = smc.particle_filter(
    ...     shard_particles(model, mesh),
    ...     64,
    ...     on_mesh(smc.adaptive_systematic, mesh),
    ...     move=all_to_all_rows(mesh),
    ... )
    >>> state, infos = jax.jit(lambda key: smc.run(key, pf, 5))(jax.random.key(0))
    >>> tuple(state.particles.sharding.spec)
    ('particle',)
    """
    require_axis(mesh, axis)
    placed = _place(resampler, mesh, axis, PartitionSpec(), PartitionSpec())
    return marked_like(resampler, placed)


def shard_particles(model: FeynmanKac, mesh: Mesh, axis: str = "particle") -> FeynmanKac:
    """The model with keys and particles spread over the axis, and log G on every device.

    A device draws, moves and weighs its own n / m particles, under the keys of their global slots.
    Raises `ValueError` if m does not divide n.
    """
    require_axis(mesh, axis)

    def spread(tree: PyTree[Array], num_axes: int) -> PyTree[Array]:
        n = jax.tree.leaves(tree)[0].shape[num_axes - 1]
        rows = _rows(mesh, axis, num_axes, n)
        return _place(lambda x: x, mesh, axis, rows, rows)(tree)

    def init(keys: Key[Array, "*batch n"]) -> PyTree[Array]:
        return model.init(spread(keys, keys.ndim))

    def propagate(
        keys: Key[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> PyTree[Array]:
        return model.propagate(spread(keys, keys.ndim), x, t)

    def weigh(
        x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> tuple[PyTree[Array], Float[Array, "*batch n"]]:
        x, log_g = model.weigh(x, t)
        whole = _place(lambda log_g: log_g, mesh, axis, PartitionSpec(), PartitionSpec())
        return spread(x, t.ndim + 1), whole(log_g)

    return model._replace(init=init, propagate=propagate, weigh=weigh)


def all_gather_rows(mesh: Mesh, axis: str = "particle") -> Move:
    """Moves rows by gathering all of them and taking one's own: n rows received by every device."""
    require_axis(mesh, axis)
    return _move(mesh, axis, lambda x, ancestors: _take_from_all(x, ancestors, axis))


def all_to_all_rows(mesh: Mesh, axis: str = "particle", capacity: int | None = None) -> Move:
    """Moves only the rows that change device, each once to every device that wants it.

    `capacity` is how many rows fit from one device to one other, 2 n / m^2 by default; when some
    pair needs more, that step falls back to `all_gather_rows`. Both are exact, so results do not
    depend on it. m `capacity` rows are received by every device; best after `in_place`.
    Raises `ValueError` for a capacity below 1.
    """
    require_axis(mesh, axis)
    if capacity is not None:
        require_count("capacity", capacity)
    num_devices = mesh.shape[axis]

    def move(x: PyTree[Array], ancestors: Int[Array, "*batch n"]) -> PyTree[Array]:
        rows = capacity or -(-2 * ancestors.shape[-1] // num_devices**2)
        me = jax.lax.axis_index(axis)
        plan = vmap_axes(lambda a: _plan(a, me, num_devices, rows), ancestors.ndim - 1)
        send, receive, is_mine, overflows = plan(ancestors)
        # One flag for all devices and problems, else some would wait for collectives of others.
        falls_back = jax.lax.pmax(jnp.any(overflows).astype(jnp.int32), axis) > 0
        return jax.lax.cond(
            falls_back,
            lambda: _take_from_all(x, ancestors, axis),
            lambda: _exchange(x, send, receive, is_mine, axis),
        )

    return _move(mesh, axis, move)


def _plan(
    ancestors: Int[Array, "n"], me: Int[Array, ""], num_devices: int, capacity: int
) -> tuple[
    Int[Array, "sent"], Int[Array, "n_local"], Bool[Array, "n_local"], Bool[Array, "num_devices"]
]:
    """Rows to send (`capacity` a device), whence each row comes, whether from here, overflows.

    Sender and receiver both list the distinct rows that pass between them in increasing order, so
    that a row's rank in the list is its place in the buffer.
    """
    n_local = ancestors.shape[0] // num_devices
    slots = jnp.arange(n_local, dtype=jnp.int32)
    devices = jnp.arange(num_devices, dtype=jnp.int32)
    wanted_by = ancestors.reshape(num_devices, n_local)
    own = wanted_by[me]
    source = own // n_local

    def distinct(rows: Int[Array, "n_local"], size: int) -> Bool[Array, "size"]:
        return jnp.zeros(size, bool).at[rows].set(True, mode="drop")

    here = jnp.where(wanted_by // n_local == me, wanted_by % n_local, n_local)
    sent = jax.vmap(lambda rows: distinct(rows, n_local))(here)
    place = jnp.where(sent, jnp.cumsum(sent, 1, jnp.int32) - 1, capacity)
    send = jax.vmap(lambda place: jnp.zeros(capacity, jnp.int32).at[place].set(slots, mode="drop"))(
        place
    )

    received = distinct(own, ancestors.shape[0]).reshape(num_devices, n_local)
    rank = (jnp.cumsum(received, 1, jnp.int32) - 1).reshape(-1)[own]
    is_mine = source == me
    receive = jnp.where(is_mine, own % n_local, source * capacity + rank)
    overflows = (jnp.sum(received, 1, dtype=jnp.int32) > capacity) & (devices != me)
    return send.reshape(-1), receive, is_mine, overflows


def _exchange(
    x: PyTree[Array],
    send: Int[Array, "*batch sent"],
    receive: Int[Array, "*batch n_local"],
    is_mine: Bool[Array, "*batch n_local"],
    axis: str,
) -> PyTree[Array]:
    particle_axis = send.ndim - 1

    def swap(leaf: Array) -> Array:
        return jax.lax.all_to_all(leaf, axis, particle_axis, particle_axis, tiled=True)

    def choose(mine: Array, other: Array) -> Array:
        return jnp.where(
            is_mine.reshape(is_mine.shape + (1,) * (mine.ndim - is_mine.ndim)), mine, other
        )

    arrived = jax.tree.map(swap, gather(x, send))
    mine = gather(x, jnp.where(is_mine, receive, 0))
    return jax.tree.map(choose, mine, gather(arrived, jnp.where(is_mine, 0, receive)))


def _take_from_all(x: PyTree[Array], ancestors: Int[Array, "*batch n"], axis: str) -> PyTree[Array]:
    particle_axis = ancestors.ndim - 1
    everything = jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, axis, axis=particle_axis, tiled=True), x
    )
    n_local = ancestors.shape[-1] // jax.lax.axis_size(axis)
    start = jax.lax.axis_index(axis) * n_local
    own = jax.lax.dynamic_slice_in_dim(ancestors, start, n_local, particle_axis)
    return gather(everything, own)


def _move(mesh: Mesh, axis: str, move: Move) -> Move:
    """`move` of each device's rows under all ancestors; typed keys travel as their words."""

    def whole(x: PyTree[Array], ancestors: Int[Array, "*batch n"]) -> PyTree[Array]:
        rows = _rows(mesh, axis, ancestors.ndim, ancestors.shape[-1])
        placed = _place(move, mesh, axis, (rows, PartitionSpec()), rows)
        leaves, form = jax.tree.flatten(x)
        is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        words = [jax.random.key_data(a) if k else a for a, k in zip(leaves, is_key, strict=True)]
        moved = [
            jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if k else new
            for new, old, k in zip(placed(words, ancestors), leaves, is_key, strict=True)
        ]
        return jax.tree.unflatten(form, moved)

    return whole


def _rows(mesh: Mesh, axis: str, num_axes: int, n: int) -> PartitionSpec:
    """The last of `num_axes` leading axes over the mesh axis."""
    if n % mesh.shape[axis]:
        raise ValueError(
            f"n: got {n} particles for {mesh.shape[axis]} devices of mesh axis {axis!r}, "
            f"want a multiple of {mesh.shape[axis]}"
        )
    return PartitionSpec(*[None] * (num_axes - 1), axis)


def _place(
    function: Callable,
    mesh: Mesh,
    axis: str,
    in_specs: PartitionSpec | tuple[PartitionSpec, ...],
    out_specs: PartitionSpec,
) -> Callable:
    """`function` run by every device along one mesh axis; the compiler keeps placing the others."""

    def placed(*args: PyTree[Array]) -> PyTree[Array]:
        # Within a mesh context, whose other axes may be manual already, that mesh.
        known = mesh if jax.sharding.get_abstract_mesh().empty else None
        specs = in_specs if isinstance(in_specs, tuple) else (in_specs,) * len(args)
        args = tuple(_reshard(x, mesh, axis, spec) for x, spec in zip(args, specs, strict=True))
        return jax.shard_map(
            function, mesh=known, in_specs=specs, out_specs=out_specs, axis_names={axis}
        )(*args)

    return placed


def _reshard(x: PyTree[Array], mesh: Mesh, axis: str, wanted: PartitionSpec) -> PyTree[Array]:
    """Moves `axis` alone to where it is wanted: explicit axes leave that to the caller."""
    if dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[axis] != AxisType.Explicit:
        return x

    def move(leaf: Array) -> Array:
        known = jax.typeof(leaf).sharding
        kept = [None if name == axis else name for name in known.spec]
        new = [axis if i < len(wanted) and wanted[i] == axis else old for i, old in enumerate(kept)]
        place = mesh if known.mesh.empty else known.mesh
        return jax.sharding.reshard(leaf, NamedSharding(place, PartitionSpec(*new)))

    return jax.tree.map(move, x)
