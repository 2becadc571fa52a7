"""Gaussian algebra for one observation of a Gaussian state: its density, and conditioning on it.

    x ~ N(m, P), y = h x + N(0, R)    S = h P h' + R    x | y ~ N(m + P h' S^-1 (y - h m), P - P h' S^-1 h P)

NaN marks an entry of y that is missing. In the precision of the arguments. Knows nothing of time.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Row(NamedTuple):
    """One observation of x ~ N(mean, cov): white (y - h mean) is standard normal."""

    y: Float[Array, "k"]
    h: Float[Array, "k d"]
    white: Float[Array, "k k"]
    log_scale: Float[Array, ""]


def observed(
    y: Float[Array, "k"], h: Float[Array, "k d"], r: Float[Array, "k k"], cov: Float[Array, "d d"]
) -> Row:
    """The row of y; missing entries are cut off from the state and from the other entries."""
    missing = jnp.isnan(y)
    h = jnp.where(missing[:, None], 0.0, h)
    cut = missing[:, None] | missing[None, :]
    r = jnp.where(cut, jnp.eye(y.shape[0], dtype=y.dtype), r)
    white, log_scale = whiten(h @ cov @ h.T + r)
    # A missing entry is a standard normal at 0, whose density is taken out again.
    num_missing = jnp.sum(missing.astype(y.dtype))
    log_scale = log_scale + 0.5 * num_missing * math.log(2 * math.pi)
    return Row(jnp.where(missing, 0.0, y), h, white, log_scale)


def log_density(row: Row, mean: Float[Array, "d"]) -> Float[Array, ""]:
    """log p(y) for that mean of x."""
    return row.log_scale - 0.5 * jnp.sum((row.white @ (row.y - row.h @ mean)) ** 2)


def condition(
    row: Row, mean: Float[Array, "d"], cov: Float[Array, "d d"]
) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Mean and covariance of x ~ N(mean, cov) given the row of y for that cov."""
    half = row.white @ row.h @ cov
    return mean + half.T @ (row.white @ (row.y - row.h @ mean)), cov - half.T @ half


def whiten(cov: Float[Array, "k k"]) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """W and c for which log N(r; 0, cov) = c - |W r|^2 / 2."""
    root = jnp.linalg.cholesky(cov)
    white = jax.scipy.linalg.solve_triangular(
        root, jnp.eye(*cov.shape, dtype=cov.dtype), lower=True
    )
    log_det = jnp.sum(jnp.log(jnp.diagonal(root)))
    return white, -log_det - 0.5 * cov.shape[0] * math.log(2 * math.pi)


def draw(
    key: Key[Array, ""], mean: Float[Array, "d"], root: Float[Array, "d d"]
) -> Float[Array, "d"]:
    """One draw of N(mean, root root')."""
    return mean + root @ jax.random.normal(key, mean.shape, mean.dtype)
