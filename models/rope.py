"""Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) as the families scale them.

    angle_i(position) = position f_i,      f_i = theta^(-2i/d) scaled by the kind,      i < d/2

    linear      f_i / factor                                       (Chen et al. 2023, arXiv 2306.15595)
    llama3      f_i for short wavelengths, f_i / factor for long ones, a blend between
    longrope    f_i / short_i up to `original_positions` tokens, f_i / long_i for longer sequences;
                cos and sin times `attention_factor`               (Ding et al. 2024, arXiv 2402.13753)
    yarn        f_i (1 - r_i) + f_i / factor r_i,  r_i a ramp from the entry that turns `beta_fast` times in
                `original_positions` tokens to the one that turns `beta_slow` times; cos and sin as longrope's
                                                                   (Peng et al. 2023, arXiv 2309.00071)

d is the rotated part of a head, `fraction` of it. Knows nothing of layers or files.
"""

from dataclasses import dataclass
from math import ceil, floor, log, pi

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

KINDS = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class Rope:
    """One set of frequencies; fields that a kind does not name are not read."""

    theta: float = 10000.0
    kind: str = "default"
    fraction: float = 1.0
    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_positions: int = 0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def rotated(self, head_dim: int) -> int:
        """How many leading entries of a head are rotated."""
        return int(head_dim * self.fraction)

    def frequencies(self, head_dim: int, *, long: bool = False) -> np.ndarray:
        """float32[rotated / 2] radians per position; `long` selects longrope's long factors."""
        size = self.rotated(head_dim)
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        powers = np.power(np.float64(self.theta), exponents.astype(np.float64)).astype(np.float32)
        if self.kind == "longrope":
            factors = np.asarray(self.long if long else self.short, np.float32)
            return np.float32(1) / (factors * powers)
        plain = np.float32(1) / powers
        if self.kind == "linear":
            return plain / np.float32(self.factor)
        if self.kind == "yarn":
            return self._yarn(plain, np.float32(1) / (np.float32(self.factor) * powers))
        return self._llama3(plain) if self.kind == "llama3" else plain

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        # In transformers' order of operations: at position 4000 an ulp moves an angle by 2e-4.
        one, factor = np.float32(1), np.float32(self.factor)
        low, high = np.float32(self.low_frequency), np.float32(self.high_frequency)
        wavelength = np.float32(2 * np.pi) * (one / plain)
        blend = np.float32(self.original_positions) * (one / wavelength)
        blend = (blend - low) / (high - low)
        is_long = wavelength > np.float32(self.original_positions / self.low_frequency)
        is_short = wavelength < np.float32(self.original_positions / self.high_frequency)
        scaled = np.where(is_long, plain / factor, plain)
        mixed = (one - blend) * scaled / factor + blend * scaled
        return np.where(is_short | is_long, scaled, mixed)

    def _yarn(self, plain: np.ndarray, stretched: np.ndarray) -> np.ndarray:
        size = 2 * len(plain)
        low, high = self._turning(self.beta_fast, size), self._turning(self.beta_slow, size)
        if self.truncate:
            low, high = floor(low), ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high = high + 0.001 if low == high else high
        ramp = (np.arange(len(plain), dtype=np.float32) - np.float32(low)) / np.float32(high - low)
        kept = np.float32(1) - np.clip(ramp, 0, 1)
        return stretched * (np.float32(1) - kept) + plain * kept

    def _turning(self, turns: float, size: int) -> float:
        """The entry that turns so often in the length of training."""
        return size * log(self.original_positions / (turns * 2 * pi)) / (2 * log(self.theta))


def rope_angles(
    rope: Rope, head_dim: int, positions: Int[Array, "*b t"], context: Int[Array, "*b"] | None
) -> tuple[Float[Array, "*b t 1 r"], Float[Array, "*b t 1 r"]]:
    """(cos, sin), float32, of the rotated entries.

    `context` is the length that each sequence may reach: longrope chooses its factors by it, once
    for the whole sequence, so that cached keys stay right. None: the largest position of the input
    decides, as in transformers.
    """
    rows = (1,) * positions.ndim
    frequencies = jnp.asarray(rope.frequencies(head_dim), jnp.float32).reshape(*rows, -1)
    if rope.kind == "longrope":
        longer = jnp.max(positions) + 1 if context is None else context[..., None, None]
        stretched = jnp.asarray(rope.frequencies(head_dim, long=True), jnp.float32).reshape(
            *rows, -1
        )
        frequencies = jnp.where(longer > rope.original_positions, stretched, frequencies)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if rope.attention_factor != 1.0:
        cos, sin = cos * rope.attention_factor, sin * rope.attention_factor
    return cos, sin


def rotate(x: Float[Array, "*b t h d"], cos: Array, sin: Array) -> Float[Array, "*b t h d"]:
    """Heads turned by their angles, halves against halves; entries past the angles stay."""
    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    a, b = jnp.split(turned, 2, axis=-1)
    turned = turned * cos.astype(x.dtype) + jnp.concatenate([-b, a], axis=-1) * sin.astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned
