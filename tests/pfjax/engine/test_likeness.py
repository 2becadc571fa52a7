"""What is alike compiles once; what differs in anything that a program could see does not."""

import collections
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc
from pfjax.engine.likeness import likeness
from pfjax.reasoning import potentials


def scaled(w):
    return lambda x: x * w


def cell(source: str, **names):
    """What a notebook cell defines as `f`: run anew each time, in a namespace of its own."""
    space = types.ModuleType("__main__").__dict__
    space.update(names, __name__="__main__")
    exec(compile(source, "<cell>", "exec"), space)
    return space["f"]


ALIKE = {
    "wrapped resampler": lambda: smc.in_place(smc.when(smc.ess_below(0.3), smc.ssp)),
    "annealed": lambda: smc.unbiased_entropic(8),
    "potential": lambda: potentials.mean(0.5),
    "partial": lambda: functools.partial(smc.systematic, t=3),
    "conditional": lambda: smc.conditional(smc.systematic),
    "array": lambda: scaled(np.arange(3.0)),
    "jax array": lambda: scaled(jnp.arange(3.0)),
    "cell": lambda: cell("def f(x):\n    return x * SCALE\n", SCALE=2.0),
    "recursive": lambda: cell("def f(x):\n    return f(x - 1) if x else 0\n"),
    "nested": lambda: cell("def f(x):\n    return (lambda y: y + SCALE)(x)\n", SCALE=[1, {"a": 2}]),
}
OTHER = {
    "wrapped resampler": lambda: smc.in_place(smc.when(smc.ess_below(0.4), smc.ssp)),
    "annealed": lambda: smc.unbiased_entropic(9),
    "potential": lambda: potentials.mean(0.25),
    "partial": lambda: functools.partial(smc.systematic, t=4),
    "conditional": lambda: smc.conditional(smc.stratified),
    "array": lambda: scaled(np.arange(3.0) + 1),
    "jax array": lambda: scaled(jnp.arange(3.0) + 1),
    "cell": lambda: cell("def f(x):\n    return x * SCALE\n", SCALE=3.0),
    "recursive": lambda: cell("def f(x):\n    return f(x - 2) if x else 0\n"),
    "nested": lambda: cell("def f(x):\n    return (lambda y: y + SCALE)(x)\n", SCALE=[1, {"a": 3}]),
}


@pytest.mark.parametrize("name", ALIKE)
def test_made_anew_is_alike_and_changed_is_not(name):
    first, again, other = ALIKE[name](), ALIKE[name](), OTHER[name]()
    assert likeness(first) == likeness(again) and hash(likeness(first)) == hash(likeness(again))
    assert likeness(first) != likeness(other)


def test_numbers_of_other_types_are_not_alike():
    kinds = [1, 1.0, True, "1", np.float32(1), (1,), [1], -0.0, 0.0, None]
    assert len({likeness(kind) for kind in kinds}) == len(kinds)


def test_a_mutated_list_in_a_closure_is_seen():
    numbers = [0.5]

    def f(x):
        return x * numbers[0]

    before = likeness(f)
    numbers[0] = 0.6
    assert likeness(f) != before


class Thing:
    """An object that acts by what it holds."""

    def __init__(self, share: float):
        self.share = share

    def __call__(self, log_w, t):
        return log_w * self.share


def test_objects_are_their_class_and_attributes():
    thing = Thing(0.5)
    before = likeness(thing)
    assert before == likeness(Thing(0.5)) == likeness(thing) != likeness(Thing(0.6))
    assert likeness(thing.__call__) == likeness(Thing(0.5).__call__)
    thing.share = 0.6
    assert likeness(thing) != before
    module = types.SimpleNamespace(share=0.5)
    before = likeness(module)
    module.share = 0.6
    assert likeness(module) != before


def test_what_the_code_can_see_of_a_class_counts():
    """A class of a notebook that holds a constant; fields that are no fields; kinds of dict."""

    class Settings:
        share = 0.5

    def f(log_w, t):
        return log_w * Settings.share

    before = likeness(f)
    Settings.share = 0.6
    assert likeness(f) != before

    @dataclasses.dataclass
    class Half:
        given: dataclasses.InitVar[float]

        def __post_init__(self, given):
            self.kept = given

    assert likeness(Half(1.0)) != likeness(Half(2.0))
    assert likeness(collections.defaultdict(lambda: 1.0)) != likeness(
        collections.defaultdict(lambda: 2.0)
    )
    assert likeness(collections.Counter()) != likeness({})
    f.scale = 2
    assert likeness(f) != before


def test_large_arrays_that_change_are_seen():
    large = np.zeros(100_000)
    before = likeness(large)
    large[7] = 1
    assert likeness(large) != before


def test_functions_that_many_share_are_walked_once():
    """Each calls two before it: without that, 2^40 walks."""
    f = g = cell("def f(x):\n    return x\n")
    for _ in range(40):
        f, g = (cell("def f(x):\n    return a(x) + b(x)\n", a=f, b=g) for _ in range(2))
    assert likeness(f) == likeness(f)


def test_what_is_not_written_in_python_is_itself():
    first, again = object(), object()
    assert likeness(first) == likeness(first) != likeness(again)
    jitted = jax.jit(lambda x: x), jax.jit(lambda x: x + 1)
    assert likeness(jitted[0]) == likeness(jitted[0]) != likeness(jitted[1])
    key = jax.random.key(0)
    assert likeness(key) == likeness(key)

    @jax.jit
    def traced(x):
        assert likeness(x) == likeness(x)
        return x

    traced(1.0)
