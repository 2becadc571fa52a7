"""Propose one reasoning step for every particle: M_t of the Feynman-Kac model.

    x_t ~ prod_j p(token_j | prompt, tokens_<j)      until the step ends

p is the policy at its temperature, top-k, top-p and min-p. All rows advance together until the last
one is done; `engine.py` lets problems go on alone.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from pfjax.reasoning.flight import begin, land
from pfjax.reasoning.particles import Particles
from pfjax.reasoning.writing import Writer, block


def propose(writer: Writer, keys: Key[Array, "p n"], x: Particles) -> Particles:
    """Every unfinished particle with one more step; finished ones stay as they are."""

    def body(carry):
        return block(writer, keys, x, *carry)

    start = (x.policy_cache, begin(x, writer.budget))
    kv, flight = jax.lax.while_loop(lambda carry: ~jnp.all(carry[1].done), body, start)
    return land(x, flight, kv, writer.budget)
