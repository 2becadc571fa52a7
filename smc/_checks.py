"""Arguments that users mix up, each refused in one sentence with the value got, wanted and the fix.

Looks at types and Python numbers alone. What users' functions return: `_calls`.
"""

import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from pfjax.smc._axes import require_typed
from pfjax.smc.optimal import optimal
from pfjax.smc.types import Algorithm, Criterion, FeynmanKac, Resampler, State


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
    if not isinstance(algorithm, Algorithm):
        got = "a model (FeynmanKac)" if isinstance(algorithm, FeynmanKac) else kind(algorithm)
        raise ValueError(f"algorithm: got {got}, want one, such as smc.particle_filter(model, n)")
    num_steps = require_count("number of steps", num_steps)
    at_least, at_most, because, done = algorithm.horizon
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
    return None if isinstance(state.t, jax.core.Tracer) else int(jnp.max(state.t)) + 1


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


def require_model(model: FeynmanKac) -> None:
    """Raises `ValueError` for anything but a model."""
    if not isinstance(model, FeynmanKac):
        got = "an algorithm" if isinstance(model, Algorithm) else kind(model)
        raise ValueError(
            f"model: got {got}, want a FeynmanKac; make one of functions of one particle with smc.lift"
        )


def require_resampler(resampler: Resampler) -> None:
    """Raises `ValueError` for what cannot be called as a resampler is."""
    if resampler is optimal:
        raise ValueError("resampler: got `optimal` itself, want optimal(n) with the number of rows")
    if not callable(resampler):
        raise ValueError(
            f"resampler: got {kind(resampler)}, want a function of (key, log_w, t), such as "
            "smc.systematic"
        )


def require_criterion(criterion: Criterion) -> None:
    """Raises `ValueError` for a criterion that is not a function, such as a bare fraction."""
    if not callable(criterion):
        raise ValueError(
            f"criterion: got {criterion!r}, want a function of (log_w, t), such as smc.ess_below(0.5)"
        )


def kind(value: object) -> str:
    """What a message calls it."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape}"
    named = getattr(value, "__name__", None) if callable(value) else None
    return f"the function {named}" if named else f"a {type(value).__name__}"


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
