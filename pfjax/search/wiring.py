"""From a reward, a value, to what the engine needs: sources, who speaks for the host, and prompts."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfjax import models
from pfjax.engine.pool import Snapshot
from pfjax.reasoning import foreign, sources
from pfjax.reasoning.asked import Asker, RewardError, failure, step_text
from pfjax.reasoning.sources import Formula, Source, Sources
from pfjax.reasoning.strip import strip_table
from pfjax.search.rewards import Mix, Reward, Texts, Tokens, name_of, of_texts
from pfjax.search.shapes import shapes_of
from pfjax.settings.budget import Budget
from pfjax.settings.words import one_line
from pfjax.tasks.task import Task


class Wired(NamedTuple):
    """A reward for one policy and budget.

    `hosts` as `TextEngine` takes them; `prms` in the order of `Sources.prompted`; `watched` is the name of a
    reward whose values, made on the device by functions or weights of the user's, have to be looked at.
    """

    sources: Sources = Sources()
    hosts: dict[int, foreign.Reader | Asker] = {}
    prms: tuple[models.PRM, ...] = ()
    watched: str = ""

    def prompts(self, question: str) -> list[list[int]]:
        """The question as every PRM reads it."""
        return [prm.format.prompt(question) for prm in self.prms]

    def rooms(self, budget: Budget) -> list[int]:
        """Tokens that a prompt may have, for every PRM."""
        return [prm.config.max_positions - budget.prm_tokens for prm in self.prms]


def wire(reward: Reward, policy: models.Policy, budget: Budget, task: Task) -> Wired:
    """ValueError if a part cannot serve: it returns no number, or reads other tokens."""
    leaves: list[models.PRM | Tokens | Texts] = []
    formula = _formula(reward, leaves)
    parts: list[Source] = []
    hosts: dict[int, foreign.Reader | Asker] = {}
    strip = None
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tokens):
            require_value(leaf, budget)
            parts.append(sources.OfTokens(leaf.function))
        elif isinstance(leaf, Texts):
            read = partial(step_text, policy, cut=task.cut)
            hosts[i] = Asker(read, leaf.function, batched=leaf.batched, timeout=leaf.timeout)
            parts.append(sources.OfTexts())
        elif not task.bare or foreign.reads_text(policy, leaf):
            hosts[i] = foreign.Reader(partial(step_text, policy, cut=task.cut), leaf)
            parts.append(sources.text(leaf.module, foreign.reading(leaf, budget)))
        else:
            if strip is None:
                strip = strip_table(padded_bytes(policy), list(policy.eos_ids))
            probe = jnp.int32(leaf.format.probe[0])
            parts.extend(sources.plain(leaf.module, strip, probe).parts)
    prms = tuple(leaf for leaf in leaves if isinstance(leaf, models.PRM))
    watched = name_of(reward) if isinstance(reward, (Tokens, Mix)) else ""
    return Wired(Sources(tuple(parts), formula), hosts, prms, watched)


def padded_bytes(policy: models.Policy) -> list[bytes]:
    """What every id of the policy's head stands for; ids without a token are empty."""
    known = policy.tokenizer.token_bytes
    return known + [b""] * (policy.config.vocab_size - len(known))


def require_value(leaf: Tokens, budget: Budget) -> None:
    """ValueError unless the function gives one float for the tokens of a solution."""
    size = budget.max_tokens + budget.step_tokens
    arguments = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((size,), ())]
    wanted = "wanted a float32 scalar for (tokens int32[s], length int32[])"
    try:
        found = jax.eval_shape(leaf.function, *arguments)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise RewardError(f"The reward {name_of(leaf)!r} raised {what}; {wanted}.") from error
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
        raise RewardError(f"The reward {name_of(leaf)!r} gives {shapes_of(found)}; {wanted}.")


def require_numbers(
    name: str, policy: models.Policy, question: str, history: list[Snapshot]
) -> None:
    """RewardError if the newest generation has a value that is NaN or +inf."""
    last = history[-1]
    bad = (last.new_tokens > 0) & ~(last.value < jnp.inf)
    if bad.any():
        row = int(bad.argmax())
        step = step_text(policy, last.step[row, : int(last.new_tokens[row])].tolist())
        what, fix = f"returned {last.value[row]}", "return a finite number, or -inf to kill"
        raise failure(name, what, step, question, fix)


def _formula(reward: Reward, leaves: list) -> Formula:
    if isinstance(reward, Mix):
        return reward.how, tuple(_formula(p, leaves) for p in reward.parts), reward.weights
    leaves.append(reward if isinstance(reward, (models.PRM, Tokens, Texts)) else of_texts(reward))
    return len(leaves) - 1
