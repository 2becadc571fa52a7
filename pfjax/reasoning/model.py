"""Reasoning as a Feynman-Kac model: a particle is a partial solution.

    M_t   one step of the policy                          (propose.py)
    G_t   a potential of the reward model's value v_t     (rewards.py, potentials.py)

so that `smc.particle_filter(model, n, resampler)` is particle filtering over reasoning steps (Puri
et al. 2025, arXiv 2502.01618, algorithm 1). Target: the potential's, with p the policy at its
temperature and top-p. Knows nothing of text.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.reasoning import particles, potentials
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.potentials import Potential
from pfjax.reasoning.propose import propose
from pfjax.reasoning.rewards import RewardModel
from pfjax.reasoning.writing import Writer
from pfjax.settings.budget import Budget
from pfjax.settings.sampling import Sampling


class Settings(NamedTuple):
    """What the compiled functions are specialised to; hashable.

    `kv_format` "int8" rounds the caches of what is written; None keeps them as the prompt's.
    """

    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    potential: Potential = potentials.telescoping()
    kv_format: str | None = None


def language_model(
    policy: Decoder,
    prefix: cache.Prefix,
    last: Int[Array, " p"],
    table: StopTable,
    reward: RewardModel,
    settings: Settings,
) -> smc.FeynmanKac:
    """The model of p problems; `prefix` holds each prompt but its last token, which is in `last`.

    Algorithms may put any particle in any row of its problem, and weigh it again: it then weighs the same.
    """
    writer = Writer(policy, prefix, table, settings.sampling, settings.budget)
    budget = settings.budget

    def init(keys: Key[Array, "p n"]) -> particles.Particles:
        blank = particles.empty(
            policy.config,
            last,
            jnp.ones(last.shape, bool),
            keys.shape[1],
            budget=budget,
            columns=budget.max_tokens + budget.slack,
            reward_state=reward.init(*keys.shape),
            dtype=cache.suffix_dtype(prefix, settings.kv_format),
        )
        return propose(writer, keys, blank)

    def propagate(keys, x, t):
        del t
        return propose(writer, keys, x)

    def weigh(x: particles.Particles, t):
        del t
        return weighed(x._replace(history=particles.alike(x)), reward, settings)

    return smc.FeynmanKac(init, propagate, weigh)


def weighed(
    x: particles.Particles, reward: RewardModel, settings: Settings
) -> tuple[particles.Particles, Float[Array, "p n"]]:
    """Particles with the values of their newest steps, and log G_t."""
    state, value, cost = reward.score(x.reward_state, x)
    # A solution cut by the token budget in mid-step keeps its last value; so does one that was finished before.
    new = (x.num_steps > x.scored) & ~(x.truncated & (x.length >= settings.budget.max_tokens))
    value = jnp.where(new, value, x.value)
    aggregate, log_g = potentials.weigh(
        settings.potential, x.aggregate, value, x.num_steps, new, x.log_g
    )
    # A row whose logits were not numbers (`writing.py`) is killed, and its NaN sets the status.
    log_g = jnp.where(jnp.isnan(x.log_prob), jnp.nan, log_g)
    x = x._replace(
        value=value,
        aggregate=aggregate,
        log_g=log_g,
        scored=x.num_steps,
        new_reward_tokens=cost.tokens,
        new_reward_calls=cost.calls,
        reward_state=state,
    )
    return x, log_g
