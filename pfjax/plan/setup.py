"""Models, budgets and a mesh of devices: whether they fit together and how much more would."""

from collections.abc import Callable
from typing import NamedTuple

from pfjax.plan.devices import Device
from pfjax.plan.memory import memory
from pfjax.plan.shapes import Workload
from pfjax.plan.weights import Model
from pfjax.settings.budget import Budget

_MOST = 1 << 24


class Setup(NamedTuple):
    """A search on a mesh of `problem` x `model` devices; `problems` are those of one batch."""

    policy: Model
    prm: Model | None
    device: Device
    problem: int
    model: int
    dtype: str
    weight_format: str | None
    budget: Budget
    prompt_tokens: int
    particles: int
    problems: int
    kv_format: str | None = None

    @property
    def workload(self) -> Workload:
        """What one group of devices does; problems are padded to equally many a group."""
        return Workload(
            policy=self.policy,
            prm=self.prm,
            dtype=self.dtype,
            weight_format=self.weight_format,
            model=self.model,
            budget=self.budget,
            prompt_tokens=self.prompt_tokens,
            particles=self.particles,
            problems=-(-self.problems // self.problem),
            kv_format=self.kv_format,
        )

    @property
    def capacity(self) -> int:
        """Bytes of a device that a plan may use."""
        return self.device.hbm_bytes - self.device.reserve

    @property
    def room(self) -> int:
        """Prompt tokens that the contexts leave beside a solution, as the solver checks them."""
        room = self.policy.config.max_positions - self.budget.max_tokens
        if self.prm is None:
            return room
        return min(room, self.prm.config.max_positions - self.budget.prm_tokens)

    @property
    def fits(self) -> bool:
        """Whether contexts and memory are large enough."""
        return self.prompt_tokens <= self.room and self.in_memory

    @property
    def in_memory(self) -> bool:
        """Whether the memory is large enough."""
        return memory(self.workload).total <= self.capacity


class Largest(NamedTuple):
    """What the memory has room for: problems at the particles asked for, particles at the problems.

    `rows` are particles x problems of the former, in one batch on the whole mesh.
    """

    problems: int
    particles: int
    rows: int


def largest(setup: Setup) -> Largest:
    """The largest batches, 0 where not even one fits."""
    problems = setup.problem * _most(
        lambda k: setup._replace(problems=k * setup.problem).in_memory, _MOST
    )
    particles = _most(lambda n: setup._replace(particles=n).in_memory, _MOST)
    return Largest(problems, particles, problems * setup.particles)


def longest(setup: Setup) -> int:
    """The largest max_tokens, up to the one asked for, that fits; 0 if none does."""

    def fits(tokens: int) -> bool:
        return setup._replace(budget=setup.budget._replace(max_tokens=tokens)).fits

    return _most(fits, setup.budget.max_tokens)


def axes(device: Device) -> list[int]:
    """Sizes of the model axis that are tried: powers of two within a group."""
    return [1 << i for i in range(device.group.bit_length())]


def _most(fits: Callable[[int], bool], top: int) -> int:
    """The largest number up to `top` that fits, 0 if 1 does not; more never fits better."""
    low, high = 0, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
