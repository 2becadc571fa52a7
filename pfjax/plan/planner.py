"""From a request to a plan: read the models, choose the mesh, compare bytes with the device."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from pfjax.models.linear import FORMATS
from pfjax.plan import advice, devices, sources
from pfjax.plan.devices import Device
from pfjax.plan.memory import Memory, memory
from pfjax.plan.roofline import Roofline, roofline
from pfjax.plan.setup import Largest, Setup, axes, largest
from pfjax.plan.weights import Model, replicated
from pfjax.reasoning.foreign import AROUND
from pfjax.settings.budget import Budget
from pfjax.settings.execution import KV_FORMATS
from pfjax.settings.meshes import parse_mesh

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    None for the policy's own budget, for a mesh to be chosen, for weights and caches as wide as
    `dtype`, and for a search without a PRM.
    """

    policy: str = "Qwen2.5-7B"
    prm: str | None = "Qwen2.5-Math-PRM-7B"
    device: str = "H200"
    mesh: str | None = None
    dtype: str = "bfloat16"
    weight_format: str | None = None
    kv_format: str | None = None
    particles: int = 32
    problems: int = 8
    prompt_tokens: int = 256
    max_tokens: int | None = None
    step_tokens: int | None = None
    max_steps: int | None = None
    prm_kind: str | None = None

    def checked(self) -> "Request":
        """Itself; ValueError for what no model is needed to refuse."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, wanted one of {', '.join(DTYPES)}.")
        if self.weight_format is not None and self.weight_format not in FORMATS:
            raise ValueError(
                f"weight-format is {self.weight_format!r}, wanted one of {', '.join(FORMATS)}."
            )
        if self.kv_format is not None and self.kv_format not in KV_FORMATS:
            raise ValueError(
                f"kv-format is {self.kv_format!r}, wanted {' or '.join(KV_FORMATS)}; leave it out for "
                "caches as wide as dtype."
            )
        names = ("particles", "problems", "prompt_tokens", "max_tokens", "step_tokens", "max_steps")
        for name in names:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1 << 24:
                wanted = f"wanted 1 to {1 << 24}"
                raise ValueError(f"{name.replace('_', '-')} is {value}, {wanted}.")
        return self


class Plan(NamedTuple):
    """What `pfjax plan` shows; `advice` is the cheapest change that fits, None if it fits."""

    request: Request
    device: Device
    setup: Setup
    chosen: bool
    memory: Memory
    largest: Largest
    roofline: Roofline
    advice: str | None
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether memory and contexts are large enough."""
        return self.advice is None


def make_plan(request: Request) -> Plan:
    """The plan of a request; ValueError (CheckpointError for models) if it cannot be made."""
    request = request.checked()
    device = devices.find(request.device)
    asked = None if request.mesh is None else parse_mesh(request.mesh)
    policy, generation = sources.read_policy(request.policy)
    prm = None if request.prm is None else sources.read_prm(request.prm, request.prm_kind)
    if prm is not None and _family(prm) != _family(policy):
        prm = prm._replace(reads_text=True)
    setup = Setup(
        policy=policy,
        prm=prm,
        device=device,
        problem=asked[0] if asked else 1,
        model=asked[1] if asked else 1,
        dtype=request.dtype,
        weight_format=request.weight_format,
        budget=_budget(request, generation),
        prompt_tokens=request.prompt_tokens,
        particles=request.particles,
        problems=request.problems,
        kv_format=request.kv_format,
    )
    if asked is None:
        setup = _choose(setup)
    work = setup.workload
    return Plan(
        request=request,
        device=device,
        setup=setup,
        chosen=asked is None,
        memory=memory(work),
        largest=largest(setup),
        roofline=roofline(work, device, setup.problem),
        advice=None if setup.fits else advice.advise(setup),
        notes=_notes(setup, asked is None),
    )


def _budget(request: Request, generation: dict) -> Budget:
    """What is asked for, else the policy's own, else the defaults of `pfjax.load`."""
    asked = request.step_tokens, request.max_tokens, request.max_steps
    return Budget(*(number or 0 for number in asked)).filled(generation)


def _choose(setup: Setup) -> Setup:
    """The smallest model axis that fits; if none does, that for one particle; else the largest."""
    tried = [setup._replace(model=size) for size in axes(setup.device)]
    for found in (*tried, *(t._replace(particles=1, problems=1) for t in tried)):
        if found.in_memory:
            return setup._replace(model=found.model)
    return tried[-1]


def _family(model: Model) -> str:
    """Whose tokenizer a model has, as far as a config.json tells.

    Qwen's are one, for example: the later one adds tokens behind those of the earlier.
    """
    found = re.match("[a-z]*", model.config.family)
    return found[0] if found else ""


def _notes(setup: Setup, chosen: bool) -> list[str]:
    notes = []
    if chosen:
        mesh = f"{setup.problem}x{setup.model}"
        none = f"No mesh was given and none has the memory; the figures are those of {mesh}."
        smallest = f"No mesh was given: {mesh} is the smallest with the memory."
        notes.append(smallest if setup.in_memory else none)
    for model in (setup.policy, setup.prm):
        if model is not None:
            notes += _replicated(model, setup.model)
    if setup.prm is not None and setup.prm.reads_text:
        notes.append(
            f"{setup.prm.name} reads text: its caches have room for three of its tokens for two of the "
            f"policy's, and {AROUND} around a step; they may double where its tokenizer needs more."
        )
    padding = -setup.problems % setup.problem
    if padding:
        notes.append(
            f"{setup.problems} problems are padded to {setup.problems + padding}, "
            f"{setup.workload.problems} on each of {setup.problem} groups of devices."
        )
    return notes


def _replicated(model: Model, size: int) -> list[str]:
    names = replicated(model, size)
    if not names:
        return []
    config = model.config
    kept = " and the cache" if "k_proj" in names else ""
    return [
        f"{model.name}: a model axis of {size} does not divide all of {config.num_heads} heads, "
        f"{config.num_kv_heads} key-value heads and {config.intermediate_size} MLP columns, so "
        f"{', '.join(names)}{kept} are whole on every device."
    ]
