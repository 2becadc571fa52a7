"""Arguments that users mix up, each refused in one sentence with the value got, wanted and the fix.

Looks at types and Python numbers alone. What users' functions return: `_calls`.
"""

import inspect
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pfjax.smc._axes import require_typed
from pfjax.smc.types import (
    Algorithm,
    Conditional,
    Criterion,
    FeynmanKac,
    Info,
    Resampler,
    State,
)


def require_run(
    key: Key[Array, "*batch"],
    algorithm: Algorithm,
    num_steps: int,
    state: State | None = None,
    *,
    is_until: bool = False,
) -> None:
    """Raises `ValueError` for a run that the runners cannot make, or whose target would be wrong."""
    if isinstance(key, Algorithm | FeynmanKac):
        raise ValueError(
            "key: got an algorithm or a model, want a key; write run(key, algorithm, n)"
        )
    require_typed(key)
    require_algorithm(algorithm)
    if isinstance(state, Info):
        raise ValueError("state: got an Info, want the state that a run returned first")
    if isinstance(state, State) and state.t.shape != key.shape:
        raise ValueError(
            f"state: got {state.t.shape} problems for keys of shape {key.shape}, want one key for each"
        )
    num_steps = require_count("number of steps", num_steps)
    at_least, at_most, because, done, _ = algorithm.horizon
    if done is not None and not is_until:
        raise ValueError(
            f"algorithm: got one whose number of steps is not known beforehand ({because}), want "
            f"smc.run_until(key, algorithm, smc.{done.__name__}, max_steps)"
        )
    begun = _generations_before(state)
    if begun is None:
        return
    if num_steps + begun < at_least and state is None:
        raise ValueError(f"number of steps: got {num_steps}, want at least {at_least}: {because}")
    if at_most is not None and num_steps + begun > at_most:
        raise ValueError(
            f"number of steps: got {num_steps + begun}, want at most {at_most}: {because}"
        )


def _generations_before(state: State | None) -> int | None:
    """How many generations there were before a run goes on from a state; None if not known."""
    if not isinstance(state, State):
        return 0
    return None if isinstance(state.t, jax.core.Tracer) else int(np.asarray(state.t).max()) + 1


def require_count(name: str, value: int, at_least: int = 1) -> int:
    """The value as an int; raises `ValueError` unless it is a whole number, at least `at_least`."""
    if not isinstance(value, bool):
        try:
            value = operator.index(value)
        except TypeError:
            pass
        else:
            if value >= at_least:
                return value
            raise ValueError(f"{name}: got {value}, want at least {at_least}")
    raise ValueError(f"{name}: got {value!r}, want a whole number, at least {at_least}")


def is_share(value: object) -> bool:
    """Whether a value is a number above 0 and at most 1."""
    try:
        return not isinstance(value, (bool, str)) and 0 < float(value) <= 1  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False


def require_a(name: str, value: object, wanted: type, fix: str) -> None:
    """Raises `ValueError` for a value of another type."""
    if not isinstance(value, wanted):
        raise ValueError(f"{name}: got {kind(value)}, want {_article(wanted.__name__)}; {fix}")


def require_function(name: str, function: Callable, takes: str, fix: str) -> None:
    """Raises `ValueError` for what cannot be called with these arguments, named as in "log_w, t"."""
    fits = callable(function)
    if fits:
        try:
            inspect.signature(function).bind(*takes.split(", "))
        except TypeError:
            fits = False
        except ValueError:  # of functions that have no signature to be read
            pass
    if not fits:
        raise ValueError(f"{name}: got {kind(function)}, want a function of ({takes}), {fix}")


def require_model(model: FeynmanKac) -> None:
    """Raises `ValueError` for anything but a model."""
    require_a("model", model, FeynmanKac, "make one of functions of one particle with smc.lift")


def require_algorithm(algorithm: Algorithm) -> None:
    """Raises `ValueError` for anything but an algorithm."""
    require_a("algorithm", algorithm, Algorithm, "such as smc.particle_filter(model, n)")


def require_resampler(resampler: Resampler, name: str = "resampler") -> None:
    """Raises `ValueError` for what cannot be called as a resampler is."""
    if getattr(resampler, "__name__", "") == "optimal":
        raise ValueError(f"{name}: got `optimal` itself, want optimal(n) with the number of rows")
    require_function(name, resampler, "key, log_w, t", "such as smc.systematic")


def require_plain(resampler: Resampler, name: str = "resampler") -> None:
    """Raises `ValueError` for a resampler that is none, or keeps slot 0 as conditional ones do."""
    require_resampler(resampler, name)
    if isinstance(resampler, Conditional):
        raise ValueError(
            f"{name}: got a conditional one, which keeps slot 0 for a reference, want a plain one, "
            "such as smc.systematic; references are for conditional_particle_filter and particle_gibbs"
        )


def require_criterion(criterion: Criterion) -> None:
    """Raises `ValueError` for a criterion that is not a function, such as a bare fraction."""
    require_function("criterion", criterion, "log_w, t", "such as smc.ess_below(0.5)")


def require_choice(choose: Callable[[int], Resampler]) -> None:
    """Raises `ValueError` for what does not make a resampler of a number of rows."""
    require_function("choose", choose, "n", "the number of rows, such as smc.choice or smc.optimal")


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"


def kind(value: object) -> str:
    """What a message calls it."""
    if isinstance(value, Algorithm):
        return "an Algorithm"
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape}"
    named = getattr(value, "__name__", None) if callable(value) else None
    return f"the function {named}" if named else _article(type(value).__name__)


def require_axis(mesh: jax.sharding.Mesh, axis: str) -> None:
    """Raises `ValueError` for an axis that the mesh does not have."""
    if axis not in mesh.shape:
        raise ValueError(f"axis: got {axis!r}, want one of the axes of the mesh, {mesh.axis_names}")


def require_states(states: State) -> None:
    """Raises `ValueError` for anything but the stacked states of a run."""
    if not isinstance(states, State):
        raise ValueError(
            f"states: got {kind(states)}, want the stacked states of a run; collect them with "
            "run(key, algorithm, num_steps, collect=lambda state, info: state)"
        )
    if jnp.ndim(states.t) == 0 or states.log_weights.ndim < 2:
        raise ValueError(
            "states: got the state of one generation, want those of all, stacked; collect them with "
            "run(key, algorithm, num_steps, collect=lambda state, info: state)"
        )


def require_ancestors(ancestors: Array) -> None:
    """Raises `ValueError` for anything but the stacked ancestors of a run."""
    is_array = isinstance(ancestors, jax.Array | np.ndarray)
    if not is_array or not jnp.issubdtype(ancestors.dtype, jnp.integer) or ancestors.ndim < 2:
        raise ValueError(
            f"ancestors: got {kind(ancestors)}, want integers [steps, *batch, n], the `ancestors` of the "
            "infos that a run returns"
        )


def require_axes(key: Key[Array, "*batch"], log_w: Array) -> None:
    """Raises `ValueError` unless there is a key for every row of log-weights."""
    require_typed(key)
    if not isinstance(log_w, jax.Array | np.ndarray) or not jnp.issubdtype(
        log_w.dtype, jnp.floating
    ):
        what = f" of {log_w.dtype}" if hasattr(log_w, "dtype") else ""
        raise ValueError(f"log_w: got {kind(log_w)}{what}, want an array of floating point numbers")
    if jnp.shape(log_w)[-1:] == (0,):
        raise ValueError("log_w: got no particle, want at least one")
    if jnp.shape(log_w)[:-1] != key.shape or not jnp.ndim(log_w):
        raise ValueError(
            f"log_w: got shape {jnp.shape(log_w)} for keys of shape {key.shape}, want the axes of the key "
            "and one of particles; split the key for several problems"
        )
