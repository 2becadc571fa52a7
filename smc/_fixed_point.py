"""Cumulative expected copies N (W_1 + ... + W_i) in fixed point, with integer sums.

    V_i = N Q_i / Q_N = whole_i + part_i / 2^32        Q_i = sum of the weights up to i, exact

Float32 has 24 bits: at N = 2^20 a running sum has four of them left for its fraction. Here a weight
is an integer (relative error 2^-28) and all after it is integer arithmetic, whose bits do not
depend on the order of summation. Reference for sums of parts of floats: Dekker (1971), A
floating-point technique for extending the available precision. For up to 2^22 particles. Knows
nothing of random numbers, ancestors or leading axes (callers vmap).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

Copies = tuple[Int[Array, "*n"], UInt[Array, "*n"]]
_Words = tuple[UInt[Array, "*n"], UInt[Array, "*n"]]

_LN2 = 0.6931471805599453
_LN2_HIGH = 22713 / 2**15  # so short that its product with a small integer is exact
_FACTORIALS = (6, 24, 120, 720, 5040, 40320, 362880)
_NEGLIGIBLE = 64.0  # exp(-64) of the largest weight is less than a unit of the sums
_RADIX = 16


def cumulative_copies(log_w: Float[Array, "n"], total: int | Int[Array, ""]) -> Copies:
    """Whole and 2^-32 parts of total * (W_1 + ... + W_i), for total < 2^24.

    Never falls, is flat exactly across dead particles, and ends with `total` exactly; all 0 if all
    are dead. Differences are off by less than 2^-27 of themselves plus
    2^-30 + total / 2^40.

    >>> whole, part = cumulative_copies(jnp.array([0.0, -jnp.inf, 0.0, 0.0]), 6)
    >>> [round(k + f / 2**32, 6) for k, f in zip(whole.tolist(), part.tolist(), strict=True)]
    [2.0, 2.0, 4.0, 6.0]
    """
    sums = _running_weights(*_weights(log_w))
    return _share(sums, _last(sums), total)


def expected_copies(log_w: Float[Array, "n"], total: int | Int[Array, ""]) -> Copies:
    """Whole and 2^-32 parts of total * W_i; they sum to `total` exactly, or are 0 if all are dead.

    >>> whole, part = expected_copies(jnp.array([-jnp.inf, 0.0, 0.0]), 5)
    >>> whole.tolist(), (part / 2.0**32).tolist()
    ([0, 2, 2], [0.0, 0.5, 0.5])
    """
    high, low = _weights(log_w)
    sums = _running_weights(high, low)
    before = (sums[0] - high - (sums[1] < low).astype(jnp.uint32), sums[1] - low)
    whole, part = _share(sums, _last(sums), total)
    whole_before, part_before = _share(before, _last(sums), total)
    borrow = (part < part_before).astype(jnp.int32)
    return stored(whole - whole_before - borrow), stored(part - part_before)


def running_copies(whole: Int[Array, "n"], part: UInt[Array, "n"]) -> Copies:
    """Running sum of fixed-point numbers; exact.

    >>> whole, part = jnp.array([0, 1, 1]), jnp.array([2**31, 2**31 + 7, 1], jnp.uint32)
    >>> [x.tolist() for x in running_copies(whole, part)]
    [[0, 2, 3], [2147483648, 7, 8]]
    """
    part_sum = exact_prefix_sum(part)
    carry = (part_sum < part).astype(jnp.int32)
    return exact_prefix_sum(whole + carry), part_sum


def exact_prefix_sum(x: Int[Array, "n"] | UInt[Array, "n"]) -> Int[Array, "n"] | UInt[Array, "n"]:
    """Running sum of integers, modulo 2^32.

    On a CPU XLA's cumsum makes 2 log2(n) passes, and a product with triangles of ones is faster.
    """
    return lax.platform_dependent(x, cpu=_sum_by_blocks, default=_sum_by_scan)


def _sum_by_scan(x: Int[Array, "n"]) -> Int[Array, "n"]:
    return jnp.cumsum(x, dtype=x.dtype)


def _sum_by_blocks(x: Int[Array, "n"]) -> Int[Array, "n"]:
    n, blocks = x.shape[0], _blocks(x)
    width = blocks.shape[1]
    triangle = jnp.triu(jnp.ones((width, width), x.dtype))
    if n > width:
        totals = (blocks @ triangle[:, -1:])[:, 0]
        before = (_sum_by_blocks(totals) - totals)[:, None]
        is_first = jnp.arange(width)[None] == 0
        blocks = jnp.where(is_first, blocks + before, blocks)
    return (blocks @ triangle).reshape(-1)[:n]


def stored(x: Int[Array, "n"] | UInt[Array, "n"]) -> Int[Array, "n"] | UInt[Array, "n"]:
    """x, computed once.

    On a CPU XLA repeats what makes an array in every loop that reads it, but not beyond a matrix
    product, and a product with the unit matrix is far cheaper than the repetitions.
    """
    return lax.platform_dependent(x, cpu=_times_one, default=lambda x: x)


def _times_one(x: Int[Array, "n"]) -> Int[Array, "n"]:
    blocks = _blocks(x)
    return (blocks @ jnp.eye(blocks.shape[1], dtype=x.dtype)).reshape(-1)[: x.shape[0]]


def _blocks(x: Int[Array, "n"]) -> Int[Array, "blocks width"]:
    n, width = x.shape[0], min(x.shape[0], _RADIX)
    return (jnp.pad(x, (0, -n % width)) if n % width else x).reshape(-1, width)


def _weights(log_w: Float[Array, "n"]) -> _Words:
    """W times a power of 2, as two words of 32 bits each; the sum of all is below 2^63."""
    n = log_w.shape[0]
    log_w = lax.stop_gradient(log_w)
    mantissa, exponent = _exp_below(log_w, jnp.max(log_w))
    # n times the largest fits for sure; how much more room there is, the high words tell.
    safe = exponent + (33 - n.bit_length())
    most = jnp.sum(_words(mantissa, safe)[0], dtype=jnp.uint32) + n
    return _words(mantissa, safe + lax.clz(most).astype(jnp.int32) - 1)


def _words(mantissa: UInt[Array, "n"], shift: Int[Array, "n"]) -> _Words:
    """mantissa 2^shift in two words, rounded if shift is negative, for a shift up to 32."""
    up, down = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    rounded = mantissa + ((1 << down) >> 1).astype(jnp.uint32)
    low = jnp.where(
        shift < 0, rounded >> down.astype(jnp.uint32), mantissa << up.astype(jnp.uint32)
    )
    return jnp.where(shift > 0, mantissa >> (32 - up).astype(jnp.uint32), 0), low


def _running_weights(high: UInt[Array, "n"], low: UInt[Array, "n"]) -> _Words:
    high_sum, low_sum = running_copies(high.astype(jnp.int32), low)
    return high_sum.astype(jnp.uint32), low_sum


def _last(words: _Words) -> _Words:
    return words[0][-1], words[1][-1]


def _share(words: _Words, of: _Words, total: int | Int[Array, ""]) -> Copies:
    """total * words / of; exactly `total` where they are equal, and 0 if `of` is 0."""
    bits = total.bit_length() if isinstance(total, int) else 24
    shift = lax.clz(of[0])
    ratio = _ratio(jnp.asarray(total, jnp.int32), bits, *_shift_left(*of, shift))
    whole, part = _times(_shift_left(*words, shift), ratio, bits)
    is_all = (words[0] == of[0]) & (words[1] == of[1]) & (of[0] > 0)
    return jnp.where(is_all, total, whole), jnp.where(is_all, 0, part)


def _exp_below(
    log_w: Float[Array, "n"], peak: Float[Array, ""]
) -> tuple[UInt[Array, "n"], Int[Array, "n"]]:
    """exp(log_w - peak) = mantissa 2^(exponent - 30); mantissa 0 where that is negligible."""
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    x, x_low = _two_sum(jnp.maximum(log_w, peak - _NEGLIGIBLE), -peak)
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
    mantissa = jnp.where(log_w > peak - _NEGLIGIBLE, mantissa, 0)
    return mantissa.astype(jnp.uint32), exponent.astype(jnp.int32)


def _shift_left(high: UInt[Array, "*n"], low: UInt[Array, "*n"], by: UInt[Array, ""]) -> _Words:
    return (high << by) | (low >> (32 - by)), low << by


def _ratio(total: Int[Array, ""], bits: int, high: UInt[Array, ""], low: UInt[Array, ""]) -> _Words:
    """Just below total / s, below 2^bits, as 48 bits, for s = (high, low) / 2^63 in [1, 2)."""
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
    return upper.astype(jnp.uint32) + carry, (lower & 0xFFFF).astype(jnp.uint32)


def _times(words: _Words, ratio: _Words, bits: int) -> Copies:
    """(words / 2^63) (ratio / 2^48) 2^bits in fixed point: long multiplication of 48 bits by 48."""
    x = (words[1] >> 16, words[0] & 0xFFFF, words[0] >> 16)
    y = (ratio[1], ratio[0] & 0xFFFF, ratio[0] >> 16)
    columns = [jnp.zeros_like(x[0])] * 6
    for i in range(3):
        for j in range(3):
            product = x[i] * y[j]
            columns[i + j] = columns[i + j] + (product & 0xFFFF)
            columns[i + j + 1] = columns[i + j + 1] + (product >> 16)
    for i in range(5):
        columns[i + 1] = columns[i + 1] + (columns[i] >> 16)
        columns[i] = columns[i] & 0xFFFF
    point = 95 - bits
    return _word(columns, point).astype(jnp.int32), _word(columns, point - 32)


def _word(columns: list[UInt[Array, "n"]], start: int) -> UInt[Array, "n"]:
    """Bits start to start + 31 of a number whose digits are of 16 bits."""
    word = jnp.zeros_like(columns[0])
    for i, column in enumerate(columns):
        up = 16 * i - start
        if -16 < up < 32:
            word = word | (column << up if up >= 0 else column >> -up)
    return word


def _halves(x: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """x as a sum of two numbers of 12 bits, whose products are exact."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high


def _two_sum(a: Float[Array, "n"], b: Float[Array, ""]) -> tuple[Array, Array]:
    """a + b as a rounded sum and its exact error (Knuth)."""
    high = a + b
    b_part = high - a
    return high, (a - (high - b_part)) + (b - b_part)
