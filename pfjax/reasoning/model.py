"""Reasoning as a Feynman-Kac model: a particle is a partial solution.

    M_t   one step of the policy                          (propose.py)
    G_t   a potential of the reward model's value v_t     (rewards.py, potentials.py)

so that `smc.particle_filter(model, n, resampler)` is particle filtering over reasoning steps (Puri
et al. 2025, arXiv 2502.01618, algorithm 1). Target: the potential's, with p the policy at its
temperature and top-p. Knows nothing of text.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.reasoning import particles, potentials
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.flight import Budget
from pfjax.reasoning.potentials import Potential
from pfjax.reasoning.propose import propose
from pfjax.reasoning.rewards import RewardModel
from pfjax.reasoning.sampling import Sampling
from pfjax.reasoning.writing import Writer


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
    blank: particles.Particles,
    table: StopTable,
    reward: RewardModel,
    settings: Settings,
) -> smc.FeynmanKac:
    """The model of p problems; `prefix` holds each prompt but its last token, which is
    `blank.last`.

    `blank` are the particles before the first step (`particles.empty`), handed in so that zero
    caches are arguments of the compiled program and not constants in it.
    """
    writer = Writer(policy, prefix, table, settings.sampling, settings.budget)

    def propagate(keys, x, t):
        del t
        return propose(writer, keys, x)

    def weigh(x: particles.Particles, t):
        del t
        return weighed(x, reward, settings)

    return smc.FeynmanKac(lambda keys: propagate(keys, blank, 0), propagate, weigh)


def weighed(
    x: particles.Particles, reward: RewardModel, settings: Settings
) -> tuple[particles.Particles, Float[Array, "p n"]]:
    """Particles with the values of their newest steps, and log G_t."""
    state, value, cost = reward.score(x.reward_state, x)
    # A solution cut by the token budget in mid-step keeps its last value; so does one that was finished before.
    new = (x.num_steps > x.scored) & ~(x.truncated & (x.length >= settings.budget.max_tokens))
    value = jnp.where(new, value, x.value)
    aggregate, log_g = potentials.weigh(settings.potential, x.aggregate, value, x.num_steps, new)
    x = x._replace(
        value=value,
        aggregate=aggregate,
        scored=x.num_steps,
        new_reward_tokens=cost,
        reward_state=state,
    )
    return x, log_g
