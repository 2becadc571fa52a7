"""The engines that a solver has made: one for each method, number of particles and way of weighing.

Methods that are alike (`engine.likeness`) share an engine, and so what it has compiled.
"""

from functools import partial
from typing import TYPE_CHECKING

from pfjax.engine.engine import Engine
from pfjax.engine.likeness import likeness
from pfjax.engine.programs import Rules
from pfjax.engine.text_engine import TextEngine
from pfjax.reasoning import automaton
from pfjax.reasoning.model import Settings
from pfjax.search.methods import Method, potential_of, require_method
from pfjax.search.wiring import Wired, padded_bytes, wire
from pfjax.settings.execution import COUNT
from pfjax.settings.numbers import require

if TYPE_CHECKING:
    from pfjax.search.solver import Solver

SHORT_STEP = 32


class Engines:
    """What one solver has made so far; a copy of the solver begins anew."""

    def __init__(self):
        self._wired: dict[bool, Wired] = {}
        self._engines: dict = {}

    def __reduce__(self):
        return Engines, ()

    def wired(self, solver: "Solver", uses_prm: bool) -> Wired:
        """The solver's reward, or none, as the engine takes it."""
        reward = solver.prm if uses_prm else None
        used = reward is not None
        if used not in self._wired:
            made = (
                Wired()
                if reward is None
                else wire(reward, solver.policy, solver.budget, solver.task)
            )
            self._wired[used] = made
        return self._wired[used]

    def engine(self, solver: "Solver", method: Method, n: int, batch: int) -> Engine:
        """The engine for a method; ValueError if the method cannot search, or lacks a reward."""
        potential, together = potential_of(method, solver.tau), together_of(solver, batch)
        parts = method.resampler, potential, method.move, method.uses_prm
        kind = likeness(parts), n, together
        if kind not in self._engines:
            if method.uses_prm and solver.prm is None:
                raise ValueError(
                    f"method {method.name!r} needs a PRM; give one (prm=, --prm), or use 'majority'."
                )
            require_method(method, potential, n)
            how = solver.execution
            settings = Settings(solver.sampling, solver.budget, potential, how.kv_format)
            rules = Rules(settings, method.resampler, n, method.move, together, how.slots)
            self._engines[kind] = self._made(solver, rules, method.uses_prm)
        return self._engines[kind]

    def compilations(self) -> int:
        """Programs compiled so far."""
        return sum(engine.compilations() for engine in self._engines.values())

    def _made(self, solver: "Solver", rules: Rules, uses_prm: bool) -> Engine:
        policy, wired = solver.policy, self.wired(solver, uses_prm)
        task, known = solver.task, (padded_bytes(policy), list(policy.eos_ids))
        stop = automaton.stop_table(*known, task.delimiters, task.stops, boxed=task.stop_at_box)
        make = partial(TextEngine, hosts=wired.hosts) if wired.hosts else Engine
        return make(policy.decoder, wired.sources, stop, rules, solver.mesh)


def batch_of(solver: "Solver", problems: int, particles: int) -> int:
    """Problems of a device batch: a power of two, for every group of devices as many."""
    most = max(solver.execution.rows // particles, 1)
    wanted = 1 << (min(problems, most) - 1).bit_length()
    return -(-wanted // _groups(solver)) * _groups(solver)


def require_batch(solver: "Solver", batch: int) -> None:
    """ValueError for a batch that devices cannot share."""
    groups = _groups(solver)
    if require("batch", batch, COUNT) % groups:
        raise ValueError(
            f"batch is {batch!r}, wanted a multiple of {groups}, problems on the device."
        )


def together_of(solver: "Solver", batch: int) -> int | None:
    """Problems of a group of devices that are weighed at a time; None: all at a common barrier."""
    each, wanted = batch // _groups(solver), solver.execution.together
    if wanted is not None:
        return wanted if wanted < each else None
    if solver.budget.step_tokens <= SHORT_STEP or each == 1:
        return None
    return max(each // 8, 1)


def _groups(solver: "Solver") -> int:
    return 1 if solver.mesh is None else solver.mesh.shape[solver.mesh.axis_names[0]]
