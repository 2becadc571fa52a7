"""Cumulative expected copies N (W_1 + ... + W_i) in fixed point, with integer sums.

    V_i = N Q_i / Q_N = whole_i + part_i / 2^32        Q_i = sum of the weights up to i, exact

Float32 has 24 bits: at N = 2^20 a running sum has four of them left for its fraction. Here a weight
is an integer (relative error 2^-28) and all after it is integer arithmetic, whose bits do not
depend on the order of summation. Reference for sums of parts of floats: Dekker (1971), A
floating-point technique for extending the available precision. For up to 2^22 particles. Knows
nothing of random numbers, ancestors or leading axes (callers vmap).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped, UInt

Copies = tuple[Int[Array, "*n"], UInt[Array, "*n"]]
_Integers = Int[Array, "n"] | UInt[Array, "n"]
_Words = tuple[UInt[Array, "*n"], UInt[Array, "*n"]]

_LN2 = 0.6931471805599453
_LN2_HIGH = 22713 / 2**15  # so short that its product with a small integer is exact
_FACTORIALS = (6, 24, 120, 720, 5040, 40320)
_NEGLIGIBLE = 64.0  # exp(-64) of the largest weight is less than a unit of the sums
_RADIX = 16
_LIMB = 27  # so many bits that a block and what is before it fit in 32


def cumulative_copies(log_w: Float[Array, "n"], total: int | Int[Array, ""]) -> Copies:
    """Whole and 2^-32 parts of total * (W_1 + ... + W_i), for total < 2^24.

    Never falls, is flat exactly across dead particles, and ends with `total` exactly; all 0 if all
    are dead. Differences are off by less than 2^-27 of themselves plus 2^-30 + total / 2^40.

    >>> whole, part = cumulative_copies(jnp.array([0.0, -jnp.inf, 0.0, 0.0]), 6)
    >>> [round(k + f / 2**32, 6) for k, f in zip(whole.tolist(), part.tolist(), strict=True)]
    [2.0, 2.0, 4.0, 6.0]
    """
    sums = running_copies(*_weights(log_w))
    return _share(sums, sums, total)


def expected_copies(log_w: Float[Array, "n"], total: int | Int[Array, ""]) -> Copies:
    """Whole and 2^-32 parts of total * W_i; they sum to `total` exactly, or are 0 if all are dead.

    >>> whole, part = expected_copies(jnp.array([-jnp.inf, 0.0, 0.0]), 5)
    >>> whole.tolist(), (part / 2.0**32).tolist()
    ([0, 2, 2], [0.0, 0.5, 0.5])
    """
    high, low = _weights(log_w)
    sums = running_copies(high, low)
    before = (sums[0] - high - (sums[1] < low).astype(jnp.uint32), sums[1] - low)
    whole, part = _share(sums, sums, total)
    whole_before, part_before = _share(before, sums, total)
    borrow = (part < part_before).astype(jnp.int32)
    return stored(whole - whole_before - borrow), stored(part - part_before)


def running_copies(whole: _Integers, part: UInt[Array, "n"]) -> tuple[_Integers, UInt[Array, "n"]]:
    """Running sum of fixed-point numbers; exact while it is below 2^27.

    >>> whole, part = jnp.array([0, 1, 1]), jnp.array([2**31, 2**31 + 7, 1], jnp.uint32)
    >>> [x.tolist() for x in running_copies(whole, part)]
    [[0, 2, 3], [2147483648, 7, 8]]
    """
    return lax.platform_dependent(whole, part, cpu=_copies_by_blocks, default=_copies_by_scan)


def _copies_by_scan(whole: _Integers, part: UInt[Array, "n"]) -> tuple[_Integers, _Integers]:
    part_sum = _sum_by_scan(part)
    return _sum_by_scan(whole + (part_sum < part).astype(whole.dtype)), part_sum


def _copies_by_blocks(whole: _Integers, part: UInt[Array, "n"]) -> tuple[_Integers, _Integers]:
    # No carry from word to word within a block: the products of both run side by side.
    high = whole.astype(jnp.uint32) << (32 - _LIMB) | part >> _LIMB
    high, low = _by_blocks(_carried, high, part & (2**_LIMB - 1))
    return (high >> (32 - _LIMB)).astype(whole.dtype), high << _LIMB | low


def _carried(high: UInt[Array, "*n"], low: UInt[Array, "*n"]) -> _Words:
    return high + (low >> _LIMB), low & (2**_LIMB - 1)


def exact_prefix_sum(x: _Integers) -> _Integers:
    """Running sum of integers, modulo 2^32.

    On a CPU XLA's cumsum makes 2 log2(n) passes, and a product with triangles of ones is faster.
    """
    return lax.platform_dependent(x, cpu=_sum_by_blocks, default=_sum_by_scan)


def _sum_by_scan(x: _Integers) -> _Integers:
    return jnp.cumsum(x, dtype=x.dtype)


def _sum_by_blocks(x: _Integers) -> _Integers:
    # Of unsigned words: XLA hands products of signed ones to Eigen, at twice the time.
    (sums,) = _by_blocks(lambda x: (x,), lax.bitcast_convert_type(x, jnp.uint32))
    return lax.bitcast_convert_type(sums, x.dtype)


def _by_blocks(carried: Callable, *words: UInt[Array, "n"]) -> list[UInt[Array, "n"]]:
    """Running sums of each word; `carried` hands on what is too much for one word."""
    n, width = words[0].shape[0], min(words[0].shape[0], _RADIX)
    triangle = jnp.triu(jnp.ones((width, width), jnp.uint32))
    sums = [_blocks(x) @ triangle for x in words]
    if n > width:
        before = _by_blocks(carried, *carried(*(x[:, -1] for x in sums)))
        before = [_times_one(jnp.pad(x, (1, 0))[:-1]) for x in before]
        sums = [x + y[:, None] for x, y in zip(sums, before, strict=True)]
    return [x.reshape(-1)[:n] for x in carried(*sums)]


def stored(x: _Integers) -> _Integers:
    """x, computed once.

    On a CPU XLA repeats what makes an array in every loop that reads it, but not beyond a matrix
    product, and a product with the unit matrix is far cheaper than the repetitions.
    """
    return lax.platform_dependent(x, cpu=_times_one, default=lambda x: x)


def _times_one(x: _Integers) -> _Integers:
    blocks = _blocks(x)
    return (blocks @ jnp.eye(blocks.shape[1], dtype=x.dtype)).reshape(-1)[: x.shape[0]]


def _blocks(x: Shaped[Array, "n"], fill: float = 0) -> Shaped[Array, "blocks width"]:
    n, width = x.shape[0], min(x.shape[0], _RADIX)
    padding = (0, -n % width)
    return (jnp.pad(x, padding, constant_values=fill) if n % width else x).reshape(-1, width)


def _weights(log_w: Float[Array, "n"]) -> _Words:
    """W times a power of 2, as two words of 32 bits each; the sum of all is below 2^59."""
    log_w = lax.stop_gradient(log_w)
    peaks = jnp.max(_blocks(log_w, -jnp.inf), axis=1)
    peak = jnp.max(peaks)
    mantissa, exponent = _exp_below(log_w, peak)
    return _words(mantissa, exponent + _room(peaks, peak))


def _room(peaks: Float[Array, "blocks"], peak: Float[Array, ""]) -> Int[Array, ""]:
    """The shift after which the sum is below 2^59 for sure, and not by far: above 2^49."""
    x = jnp.where(jnp.isneginf(peaks), -_NEGLIGIBLE, peaks - peak)
    exponent = jnp.round(jnp.maximum(x, -_NEGLIGIBLE) / _LN2).astype(jnp.int32)
    # The sum is below 16 sqrt(2) / 2^26 times that of these: one for the largest of each block.
    most = _blocks(jnp.uint32(1) << jnp.maximum(26 + exponent, 0).astype(jnp.uint32))
    scale = most.shape[0].bit_length()
    most = (jnp.sum(most, axis=1, dtype=jnp.uint32) >> scale) + 1
    most = jnp.sum(stored(most), dtype=jnp.uint32)
    return lax.clz(most).astype(jnp.int32) + 18 - scale


def _words(mantissa: UInt[Array, "n"], shift: Int[Array, "n"]) -> _Words:
    """mantissa 2^shift in two words, rounded if shift is negative, for a shift up to 32."""
    up, down = (jnp.maximum(x, 0).astype(jnp.uint32) for x in (shift, -shift))
    rounded = mantissa + ((jnp.uint32(1) << down) >> 1)
    return mantissa >> (32 - up), rounded >> down << up


def _share(words: _Words, sums: _Words, total: int | Int[Array, ""]) -> Copies:
    """total * words / the last of sums; exactly `total` where they are equal, and 0 if it is 0."""
    of = [x[-1] for x in sums]
    bits = total.bit_length() if isinstance(total, int) else 24
    shift = lax.clz(of[0])
    ratio = _ratio(jnp.asarray(total, jnp.int32), bits, *_shift_left(*of, shift))
    # What makes these few numbers would be repeated for every particle.
    *of, shift, upper, lower = stored(jnp.stack([*of, shift, *ratio]))
    whole, part = _times(_shift_left(*words, shift), (upper, lower), bits)
    is_all = (words[0] == of[0]) & (words[1] == of[1]) & (of[0] > 0)
    return jnp.where(is_all, total, whole), jnp.where(is_all, 0, part)


def _exp_below(log_w: Float[Array, "n"], peak: Float[Array, ""]) -> tuple[Array, Array]:
    """exp(log_w - peak) = mantissa 2^(exponent - 30); mantissa 0 where that is negligible."""
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    most = jnp.maximum(log_w, peak - _NEGLIGIBLE)
    x = most - peak
    x_low = (most - (x - (x - most))) - (peak + (x - most))  # the error of x, exact (Knuth)
    exponent = jnp.round(x * (1 / _LN2))
    r, r_low = x - exponent * _LN2_HIGH, x_low - exponent * (_LN2 - _LN2_HIGH)
    # exp(a + b) with a of 11 bits: 1 + a + a^2 / 2 is an integer of 2^-30, and the rest is small.
    a = jnp.round(r * 2.0**12) * 2.0**-12
    b = (r - a) + r_low
    r = a + b
    series = jnp.zeros_like(r)
    for factorial in reversed(_FACTORIALS):
        series = series * r + 1 / factorial
    rest = b * (1 + a + 0.5 * b) + r * r * r * series
    terms = (a * 2.0**30, a * a * 2.0**29, jnp.round(rest * 2.0**30))
    mantissa = (1 << 30) + sum(term.astype(jnp.int32) for term in terms)
    mantissa = jnp.where(log_w - peak > -_NEGLIGIBLE, mantissa, 0)
    return mantissa.astype(jnp.uint32), exponent.astype(jnp.int32)


def _shift_left(high: UInt[Array, "*n"], low: UInt[Array, "*n"], by: UInt[Array, ""]) -> _Words:
    return (high << by) | (low >> (32 - by)), low << by


def _ratio(total: Int[Array, ""], bits: int, high: UInt[Array, ""], low: UInt[Array, ""]) -> _Words:
    """Just below total / s, below 2^bits, in two words, for s = (high, low) / 2^63 in [1, 2)."""
    # Two exact floats, and a quotient corrected once.
    s = jnp.maximum((high >> 8).astype(jnp.float32) * 2.0**-23, 1.0)
    s_low = (((high & 0xFF) << 16) | (low >> 16)).astype(jnp.float32) * 2.0**-47
    numerator = total.astype(jnp.float32) * 2.0 ** (32 - bits)
    quotient = numerator / s
    a, b = _halves(quotient)
    c, d = _halves(s)
    remainder = (((numerator - a * c) - a * d) - b * c) - b * d
    correction = (remainder - quotient * s_low) / s
    upper = jnp.floor(quotient)
    lower = jnp.floor((quotient - upper) * 2.0**16 + correction * 2.0**16) - 1
    lower = jnp.where(total > 0, lower, 0.0).astype(jnp.int32)
    carry = lax.bitcast_convert_type(lower >> 16, jnp.uint32)
    return upper.astype(jnp.uint32) + carry, lower.astype(jnp.uint32) << 16


def _times(words: _Words, ratio: _Words, bits: int) -> Copies:
    """(words / 2^63) (ratio / 2^64) 2^bits in fixed point: long multiplication, 45 bits by 45.

    Left out are the columns below the third, less than 2^(bits - 42); the rest never falls either.
    """
    x, y = _digits(*words), _digits(*ratio)
    column = x[0] * y[2] + x[1] * y[1] + x[2] * y[0]
    next_column = x[1] * y[2] + x[2] * y[1] + (column >> 15)
    digits = [column & 0x7FFF, next_column & 0x7FFF, x[2] * y[2] + (next_column >> 15)]
    point = 59 - bits
    return _word(digits, point).astype(jnp.int32), _word(digits, point - 32)


def _digits(high: UInt[Array, "*n"], low: UInt[Array, "*n"]) -> list[UInt[Array, "*n"]]:
    """The upper 45 bits of two words, as three numbers of 15 bits, the least first."""
    return [(high << 13 | low >> 19) & 0x7FFF, (high >> 2) & 0x7FFF, high >> 17]


def _word(digits: list[UInt[Array, "*n"]], start: int) -> UInt[Array, "*n"]:
    """Bits start to start + 31 of a number whose digits are of 15 bits, but for the last."""
    ups = zip(digits, (-start, 15 - start, 30 - start), strict=True)
    return sum(d << up if up >= 0 else d >> -up for d, up in ups if -32 < up < 32)


def _halves(x: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """x as a sum of two numbers of 12 bits, whose products are exact."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
