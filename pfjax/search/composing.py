"""The language model of a solver as a `smc.FeynmanKac` that users hold.

The functions are pytrees whose leaves are weights and prompts' caches, so a model can be an argument of
`jax.jit`. Of one question the particles have whatever leading axes the algorithm gives its keys (islands,
drafts): all are rows of that problem. Python functions of texts are asked by callbacks, in the middle of
whatever program the algorithm is compiled to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Int, PyTree

from pfjax import smc
from pfjax.engine import run
from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context
from pfjax.engine.programs import Params, Programs
from pfjax.reasoning.asked import Asker, Solutions
from pfjax.reasoning.foreign import Reader
from pfjax.reasoning.model import language_model
from pfjax.reasoning.particles import Particles, last_step
from pfjax.reasoning.rewards import Ask, Told
from pfjax.settings.numbers import shown


def model_of(
    engine: Engine,
    encoded: Sequence[run.EncodedPrompt],
    questions: tuple[str, ...],
    hosts: Mapping[int, Reader | Asker],
    *,
    several: bool,
) -> smc.FeynmanKac:
    """The model of encoded questions; of one alone unless there are `several`.

    ValueError for an engine on a mesh, or a PRM that reads text.
    """
    if engine.on_mesh:
        raise ValueError("solver.model runs on one device; load the solver without a mesh.")
    if any(isinstance(host, Reader) for host in hosts.values()):
        raise ValueError(
            "solver.model has no room for a PRM that reads text; use solver.solve, or a PRM with the "
            "policy's tokenizer."
        )
    width = run.bucket(max(len(ids) for prompt in encoded for ids in prompt))
    prompts = run.pad(encoded, len(encoded), width)
    arrays = engine.params, engine.prefill(prompts), prompts.last
    askers = [hosts.get(i) for i in range(len(engine.params.sources.parts))]
    asks = tuple(partial(ask, a, questions) if isinstance(a, Asker) else None for a in askers)
    names = ("init", "propagate", "weigh")
    parts = [_Function(engine.programs, name, several, asks) for name in names]
    return smc.FeynmanKac(*(Partial(part, arrays) for part in parts))


def ask(asker: Asker, questions: Sequence[str], x: Particles) -> Told:
    """The values of the newest steps of [p, n] particles, by a callback."""
    new, count = last_step(x, x.tokens.shape[2])
    count = jnp.where(x.num_steps > x.scored, count, 0)
    kinds = [jax.ShapeDtypeStruct(count.shape, kind) for kind in (jnp.float32, jnp.int32)]
    job = jnp.arange(count.shape[0], dtype=jnp.int32)

    def found(*solutions: Any) -> Any:
        return asker(Solutions(*map(np.asarray, solutions)), questions)

    before = jnp.maximum(x.num_steps - 1, 0)
    arrays = job, x.tokens, x.step_end, before, new, count
    return Told(*jax.pure_callback(found, kinds, *arrays, vmap_method="sequential"))


@dataclass(frozen=True)
class _Function:
    """A function of the model, given its arrays first."""

    programs: Programs
    name: str
    several: bool
    asks: tuple[Ask | None, ...]

    def __call__(self, arrays: tuple[Params, Context, Int[Array, " p"]], *arguments: Any) -> Any:
        function = getattr(self._model(*arrays), self.name)
        p = len(arrays[2])
        if self.name == "init":
            (keys,) = arguments
            self._require(keys.shape, p)
            return _shaped(function(keys.reshape(p, -1)), keys.shape)
        *first, x, t = arguments
        axes = x.length.shape
        self._require(axes, p)
        found = function(*(rows(part, len(axes), p) for part in (*first, x)), t)
        return _shaped(found, axes)

    def _model(self, params: Params, context: Context, last: Array) -> smc.FeynmanKac:
        programs = self.programs
        settings = programs.rules.settings
        columns = settings.budget.prm_tokens
        reward = programs.reward(params.sources, context, self.asks, columns)
        policy = nnx.merge(programs.policy, params.policy)
        return language_model(policy, context.policy, last, params.stop, reward, settings)

    def _require(self, axes: tuple[int, ...], p: int) -> None:
        if self.several and (len(axes) < 2 or axes[0] != p):
            raise ValueError(
                f"model: got keys or particles of shape {axes} for {p} questions; run it with one key "
                "for each, solver.keys(questions)."
            )


def rows(tree: PyTree[Array], axes: int, p: int = 1) -> PyTree[Array]:
    """Arrays whose first `axes` axes are particles, as [p, n, ...]."""
    return jax.tree.map(lambda x: x.reshape(p, -1, *x.shape[axes:]), tree)


def _shaped(tree: PyTree[Array], axes: tuple[int, ...]) -> PyTree[Array]:
    return jax.tree.map(lambda x: x.reshape(*axes, *x.shape[2:]), tree)


def first_problem(x: Particles) -> Particles:
    """Particles of one question [*axes, ...] as rows [n, ...] on the host, without caches."""
    if not isinstance(x, Particles):
        raise ValueError(f"particles is {shown(x)}, wanted those of a state of solver.model.")
    small = x._replace(policy_cache=(), reward_state=())
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(rows(small, x.length.ndim)))
