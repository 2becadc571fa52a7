"""No key is used twice, anywhere: every use of every key is recorded while the programs are traced.

A key may be drawn from once, or split once, or folded with different numbers; nothing else. What a
key was folded with is compared as an object where it is traced.
"""

import jax
import pytest
from programs import MODEL, MODELS, PROGRAMS, SAME_CODE

from pfjax import smc

DRAWS = ("bits", "uniform", "normal", "categorical", "exponential", "permutation", "randint")
DRAWS += ("bernoulli", "gumbel", "split")


@pytest.fixture
def uses(monkeypatch):
    """{id of a key: (the key, kinds of use, numbers folded in)}, for every key that is used."""
    seen: dict[int, tuple] = {}

    def record(name):
        original = getattr(jax.random, name)

        def recorded(key, *rest, **keywords):
            _, kinds, numbers = seen.setdefault(id(key), (key, [], []))
            kinds.append(name)
            if name == "fold_in":
                numbers.append(rest[0])
            return original(key, *rest, **keywords)

        monkeypatch.setattr(jax.random, name, recorded)

    for name in (*DRAWS, "fold_in"):
        record(name)
    return seen


def reused(uses) -> list[tuple]:
    wrong = []
    for _, kinds, numbers in uses.values():
        folded = [n for i, n in enumerate(numbers) if not any(_same(n, m) for m in numbers[:i])]
        if len(kinds) > 1 and (set(kinds) != {"fold_in"} or len(folded) < len(numbers)):
            wrong.append((kinds, numbers))
    return wrong


def _same(a, b) -> bool:
    if any(isinstance(x, jax.core.Tracer) for x in (a, b)):
        return a is b
    return int(a) == int(b)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SAME_CODE or name in MODELS))
        for name in PROGRAMS
    ],
)
def test_no_key_is_used_twice(uses, name):
    jax.eval_shape(PROGRAMS[name], jax.random.key(0))
    assert len(uses) > 1 and not reused(uses)


def test_what_is_used_twice_is_seen(uses):
    def careless(key, log_w, t):
        jax.random.uniform(key)
        return smc.systematic(key, log_w, t)

    algorithm = smc.particle_filter(MODEL, 4, careless)
    jax.eval_shape(lambda key: smc.run(key, algorithm, 2), jax.random.key(0))
    assert [kinds for kinds, _ in reused(uses)] == [["uniform", "bits"]]
