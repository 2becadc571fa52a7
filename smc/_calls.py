"""Calls of users' functions, each of whose results is looked at once, when it is traced.

What is of the wrong shape, or the wrong thing, is refused in one sentence that names the function,
what it returned, what is wanted and the fix. Costs nothing in a compiled program. Knows nothing of
weights or of randomness.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from pfjax.smc._checks import kind
from pfjax.smc.types import FeynmanKac, Info, Resampler, State


def collected(
    collect: Callable[[State, Info], PyTree[Array]], state: State, info: Info
) -> PyTree[Array]:
    """What `collect` returns, with Python numbers as arrays."""
    if not callable(collect):
        raise ValueError(f"collect: got {kind(collect)}, want a function of (state, info)")
    result = collect(state, info)
    try:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, _dtype_of(leaf)), result)
    except TypeError as error:
        raise ValueError(f"collect: got {kind(result)}, want a tree of arrays") from error


def _dtype_of(leaf: object) -> jnp.dtype | None:
    """Of Python numbers without regard to jax_enable_x64."""
    return {float: jnp.float32, int: jnp.int32}.get(type(leaf))


def resampled_by(
    resampler: Resampler, key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Array
) -> tuple[Array, Array, Array]:
    """What the resampler returns; raises `ValueError` if that is not one row for every particle."""
    result = resampler(key, log_w, t)
    if not isinstance(result, tuple) or len(result) != 3:
        raise ValueError(
            f"resampler: got {kind(result)} from {resampler!r}, want (ancestors, log-weights left, "
            "resampled)"
        )
    for name, rows in zip(("ancestors", "log-weights left"), result[:2], strict=True):
        if jnp.shape(rows) != log_w.shape:
            raise ValueError(
                f"resampler: got {name} of shape {jnp.shape(rows)} for log-weights of shape "
                f"{log_w.shape}, want as many rows as there are particles; optimal(n) and choice(n) "
                "of another n are for lookahead_filter and waste_free"
            )
    return result


def drawn(model: FeynmanKac, keys: Key[Array, "*batch n"]) -> PyTree[Array]:
    """`model.init(keys)`; raises `ValueError` if it is a function of one particle."""
    try:
        x = model.init(keys)
    except (TypeError, ValueError) as error:
        _raise_if_of_one("init", error, lambda: model.init(keys.reshape(-1)[0]))
        raise
    return _require_rows("init", x, keys.shape)


def moved(
    model: FeynmanKac, keys: Key[Array, "*batch n"], x: PyTree[Array], t: Array
) -> PyTree[Array]:
    """`model.propagate(keys, x, t)`; raises `ValueError` if it is a function of one particle."""
    try:
        new = model.propagate(keys, x, t)
    except (TypeError, ValueError) as error:
        one = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[keys.ndim :])[0], x)
        key, now = keys.reshape(-1)[0], t.reshape(-1)[0]
        _raise_if_of_one("propagate", error, lambda: model.propagate(key, one, now))
        raise
    return _require_rows("propagate", new, keys.shape)


def weighed_by(
    model: FeynmanKac, x: PyTree[Array], t: Array, shape: tuple[int, ...]
) -> tuple[PyTree[Array], Float[Array, "*batch n"]]:
    """`model.weigh(x, t)`; raises `ValueError` unless that is (particles, one log G for each)."""
    result = model.weigh(x, t)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"model.weigh: got {kind(result)}, want the pair (particles, log G); write `return x, log_g`"
        )
    particles, log_g = result
    if log_g is x or not hasattr(log_g, "shape"):
        raise ValueError(
            "model.weigh: got (log G, particles), or something else than numbers for log G, want the "
            "pair (particles, log G)"
        )
    if log_g.shape != shape:
        raise ValueError(
            f"model.weigh: got log G of shape {log_g.shape}, want {shape}: one number per particle, "
            "behind the axes of the key; a function of one particle needs smc.lift"
        )
    if not jnp.issubdtype(log_g.dtype, jnp.floating):
        raise ValueError(f"model.weigh: got log G of dtype {log_g.dtype}, want floating point")
    return particles, log_g


def _raise_if_of_one(name: str, error: Exception, call: Callable[[], PyTree[Array]]) -> None:
    """Raises `ValueError` if a function that failed for many particles works for one."""
    try:
        jax.eval_shape(call)
    except Exception:
        return
    raise ValueError(
        f"model.{name}: got a function of one particle, want one of all particles at once; make the "
        "model with smc.lift(init, propagate, log_potential), or map it with smc.per_particle"
    ) from error


def _require_rows(name: str, x: PyTree[Array], shape: tuple[int, ...]) -> PyTree[Array]:
    for leaf in jax.tree.leaves(x):
        if jnp.shape(leaf)[: len(shape)] != shape:
            raise ValueError(
                f"model.{name}: got particles of shape {jnp.shape(leaf)} for keys of shape {shape}, "
                "want a row for every key; make a model of functions of one particle with smc.lift"
            )
    return x


def indexed(name: str, function: Callable) -> Callable:
    """`function`, whose failure to index numpy arrays or lists with t is explained."""

    def explained(*arguments: PyTree[Array]) -> PyTree[Array]:
        try:
            return function(*arguments)
        except (
            jax.errors.TracerIntegerConversionError,
            jax.errors.TracerArrayConversionError,
        ) as e:
            raise ValueError(
                f"{name}: got a numpy array or a list where t, or a particle, is its index, want a "
                "jax array; write y = jnp.asarray(y) outside of the function"
            ) from e

    return explained


def moved_by(
    kernel: Callable, key: Key[Array, ""], x: PyTree[Array], log_density: Callable
) -> tuple[PyTree[Array], PyTree[Array]]:
    """What a kernel returns; raises `ValueError` unless that is (particle, what there is to tell)."""
    result = kernel(key, x, log_density)
    is_pair = isinstance(result, tuple) and len(result) == 2
    if not is_pair or jax.tree.structure(result[0]) != jax.tree.structure(x):
        raise ValueError(
            f"kernel: got {kind(result)}, want the pair (particle, info); write `return x, ()` if "
            "there is nothing to tell"
        )
    return result


def ended_by(done: Callable[[State], Array], state: State) -> Array:
    """`done(state)`; raises `ValueError` unless that is one flag for all problems, or one for each."""
    ended = jnp.asarray(done(state))
    axes = state.t.shape if isinstance(state, State) else ended.shape
    if ended.dtype != bool or ended.shape not in ((), axes):
        raise ValueError(
            f"done: got {ended.dtype} of shape {ended.shape}, want one flag (bool) for all problems or one "
            f"for each, shape {axes}; reduce particles with .all(-1) or .any(-1)"
        )
    return ended
