"""The cheapest change that makes a search fit, in one sentence; each is tried before it is named."""

from collections.abc import Iterator

from pfjax.plan.setup import Setup, axes, largest, longest

Change = tuple[Setup, str]


def advise(setup: Setup) -> str:
    """What to change, from what costs least: batch, 8 bits, particles, devices, solution length.

    8 bits of the weights come before those of the caches.
    """
    if setup.prompt_tokens > setup.room:
        return _context(setup)
    for changed, sentence in _changes(setup):
        if changed.fits:
            return sentence
    return (
        f"Not even one particle fits {axes(setup.device)[-1]} devices of {setup.device.name} in "
        "8 bits; take a smaller model or a larger device."
    )


def _context(setup: Setup) -> str:
    """Every token that a solution is shorter leaves a token for the prompt."""
    tokens = setup.budget.max_tokens - (setup.prompt_tokens - setup.room)
    need = f"{setup.prompt_tokens} prompt tokens and {setup.budget.max_tokens} solution tokens"
    if tokens < 1:
        return f"The contexts have no room for {need}; shorten the prompts."
    return f"The contexts have no room for {need}; use --max-tokens {tokens}."


def _changes(setup: Setup) -> Iterator[Change]:
    found = largest(setup)
    if 0 < found.problems < setup.problems:
        yield (
            setup._replace(problems=found.problems),
            f"Solve fewer problems at a time: --problems {found.problems}.",
        )
    eight = setup._replace(weight_format="int8")
    if setup.weight_format is None:
        yield eight, "Store the weights in 8 bits: --weight-format int8."
    if setup.kv_format is None:
        caches = setup._replace(kv_format="int8")
        yield caches, "Keep the particles' caches in 8 bits: --kv-format int8."
    one = setup._replace(problems=setup.problem)
    fewer = largest(one).particles
    if fewer >= max(1, setup.particles // 2):
        yield _fewer_particles(one, fewer)
    yield from _devices(setup)
    if fewer:
        yield _fewer_particles(one, fewer)
    tokens = longest(one)
    if tokens >= setup.budget.step_tokens:
        yield (
            one._replace(budget=one.budget._replace(max_tokens=tokens)),
            f"Shorten the solutions: --problems {one.problems} --max-tokens {tokens}.",
        )
    yield from _everything(one)
    yield from _everything(one._replace(kv_format="int8"))


def _everything(one: Setup) -> Iterator[Change]:
    """8 bits, and the model axis with room for the most of the particles asked for."""
    eight = one._replace(weight_format=one.weight_format or "int8")
    found = [(size, largest(eight._replace(model=size)).particles) for size in axes(one.device)]
    size, room = max(found, key=lambda f: min(f[1], one.particles))
    particles = max(1, min(room, one.particles))
    caches = f"--kv-format {one.kv_format} " if one.kv_format else ""
    yield (
        eight._replace(model=size, particles=particles),
        f"Split 8-bit weights over {size} devices and solve less at a time: "
        f"--mesh {one.problem}x{size} --weight-format {eight.weight_format} {caches}"
        f"--particles {particles} --problems {one.problems}.",
    )


def _fewer_particles(one: Setup, particles: int) -> Change:
    return (
        one._replace(particles=particles),
        f"Use fewer particles: --particles {particles} --problems {one.problems}.",
    )


def _devices(setup: Setup) -> Iterator[Change]:
    """A longer model axis for what is asked, then for one problem a group."""
    for problems in (setup.problems, setup.problem):
        for size in axes(setup.device):
            if size > setup.model:
                smaller = f" --problems {problems}" if problems != setup.problems else ""
                yield (
                    setup._replace(model=size, problems=problems),
                    f"Split the weights over {size} devices: --mesh {setup.problem}x{size}{smaller}.",
                )
