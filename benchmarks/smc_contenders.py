"""What benchmarks/smc.py compares: a problem, and resamplers and filters of pfjax and its peers.

    x_0 ~ N(0, I)    x_t = A x_t-1 + L N(0, I)    y_t = H x_t + N(0, diag(r))    d = 2

The functions return thunks by name, seed -> result; none for a peer that is not installed.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pfjax import smc

A = np.array([[0.9, 0.2], [-0.15, 0.8]])
L = np.array([[0.5, 0.0], [0.2, 0.4]])
H = np.array([[1.0, 0.3], [0.0, 1.0]])
R = np.array([0.5, 0.7])

Thunks = dict[str, Callable]


def observations(num_steps: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=2), []
    for _ in range(num_steps):
        rows.append(H @ x + np.sqrt(R) * rng.normal(size=2))
        x = A @ x + L @ rng.normal(size=2)
    return np.array(rows)


def kalman(y: np.ndarray) -> float:
    """log p(y_0, ..., y_T-1) in float64."""
    mean, cov, total = np.zeros(2), np.eye(2), 0.0
    for row in y:
        ahead = H @ cov @ H.T + np.diag(R)
        error = row - H @ mean
        total -= 0.5 * (
            error @ np.linalg.solve(ahead, error) + np.linalg.slogdet(2 * np.pi * ahead)[1]
        )
        gain = cov @ H.T @ np.linalg.inv(ahead)
        mean, cov = A @ (mean + gain @ error), A @ (cov - gain @ H @ cov) @ A.T + L @ L.T
    return total


def _initial(key):
    return jax.random.normal(key, (2,))


def _transition(key, x):
    return jnp.float32(A) @ x + jnp.float32(L) @ jax.random.normal(key, (2,))


def _log_density(x, y):
    error = (y - jnp.float32(H) @ x) / jnp.float32(np.sqrt(R))
    return -0.5 * jnp.sum(error**2) - jnp.float32(0.5 * np.log((2 * np.pi) ** 2 * R.prod()))


def ordinary(y) -> smc.FeynmanKac:
    """Functions of one particle with small matrix products: what most users write."""
    return smc.lift(
        _initial, lambda key, x, t: _transition(key, x), lambda x, t: _log_density(x, y[t])
    )


def elementwise(y, noise) -> smc.FeynmanKac:
    """The same model on two arrays [n], with `noise(keys)` two normals per particle."""

    def propagate(keys, x, t):
        u, v = noise(keys)
        a, b = x
        return (
            A[0, 0] * a + A[0, 1] * b + L[0, 0] * u,
            A[1, 0] * a + A[1, 1] * b + L[1, 0] * u + L[1, 1] * v,
        )

    def weigh(x, t):
        a, b = x
        first = y[t, 0] - H[0, 0] * a - H[0, 1] * b
        second = y[t, 1] - H[1, 1] * b
        constant = 0.5 * np.log((2 * np.pi) ** 2 * R.prod())
        return x, -0.5 * (first**2 / R[0] + second**2 / R[1]) - constant

    return smc.FeynmanKac(lambda keys: tuple(noise(keys)), propagate, weigh)


def pfjax_filters(y: np.ndarray, n: int) -> Thunks:
    """Seed -> log Z; systematic at every step, one key per particle and step."""
    y = jnp.float32(y)
    draw_per_key = jax.vmap(lambda key: jax.random.normal(key, (2,)), out_axes=1)
    models = {
        "pfjax, ordinary": ordinary(y),
        "pfjax, elementwise": elementwise(y, partial(smc.normals, d=2)),
        "pfjax, elementwise, jax.random.normal": elementwise(y, draw_per_key),
    }

    def runner(model):
        algorithm = smc.particle_filter(model, n, smc.systematic)

        @jax.jit
        def log_evidence(seed):
            key = jax.random.key(seed)
            return smc.run(key, algorithm, len(y), lambda state, info: info.ess)[0].log_evidence

        return log_evidence

    return {name: runner(model) for name, model in models.items()}


def blackjax_filter(y: np.ndarray, n: int) -> Thunks:
    """`blackjax.smc.base.step` in a scan; the first step weighs the initial particles."""
    try:
        from blackjax.smc import base
        from blackjax.smc.resampling import systematic
    except ImportError:
        return {}
    y = jnp.float32(y)

    @jax.jit
    def log_evidence(seed):
        key = jax.random.key(seed)
        x = jax.vmap(_initial)(jax.random.split(key, n))
        log_g = jax.vmap(_log_density, (0, None))(x, y[0])
        first = jax.scipy.special.logsumexp(log_g) - jnp.log(n)
        state = base.SMCState(x, jax.nn.softmax(log_g), ())

        def advance(state, inputs):
            key, row = inputs
            state, info = base.step(
                key,
                state,
                lambda keys, x, _: (jax.vmap(_transition)(keys, x), None),
                lambda x: jax.vmap(_log_density, (0, None))(x, row),
                systematic,
            )
            return state, info.log_likelihood_increment

        keys = jax.random.split(jax.random.fold_in(key, 1), len(y) - 1)
        return first + jnp.sum(jax.lax.scan(advance, state, (keys, y[1:]))[1])

    return {"blackjax, ordinary": log_evidence}


def particles_filter(y: np.ndarray, n: int) -> Thunks:
    """`particles.SMC` with the bootstrap model of its multivariate linear-Gaussian class."""
    try:
        import particles
        from particles.kalman import MVLinearGauss
        from particles.state_space_models import Bootstrap
    except ImportError:
        return {}
    model = MVLinearGauss(F=A, G=H, covX=L @ L.T, covY=np.diag(R), mu0=np.zeros(2), cov0=np.eye(2))
    feynman_kac = Bootstrap(ssm=model, data=list(y))

    def log_evidence(seed):
        np.random.seed(seed)
        run = particles.SMC(fk=feynman_kac, N=n, resampling="systematic", ESSrmin=1.0)
        run.run()
        return run.logLt

    return {"particles, ordinary": log_evidence}


def pfjax_resamplers(log_w: np.ndarray) -> Thunks:
    """Seed -> ancestors, from log-weights; every plain scheme that the library has."""
    weights = jnp.float32(log_w)
    names = ("systematic", "stratified", "multinomial", "residual", "ssp", "killing")

    def ancestors(name):
        scheme = getattr(smc, name)
        draw = jax.jit(lambda seed, w: scheme(jax.random.key(seed), w, jnp.int32(1))[0])
        return lambda seed: draw(seed, weights)

    return {f"pfjax {name}": ancestors(name) for name in names if hasattr(smc, name)}


def forms_of_systematic(log_w: np.ndarray) -> Thunks:
    """Seed -> ancestors, the same scheme written with other primitives."""
    n = len(log_w)
    weights = jnp.float32(log_w)
    slots = jnp.arange(n, dtype=jnp.int32)

    def ends(u, c):
        return jnp.clip(jnp.ceil(n * (c / c[-1]) - u), 0, n).astype(jnp.int32).at[-1].set(n)

    def histogram(u, c):
        return jnp.cumsum(jnp.zeros(n, jnp.int32).at[ends(u, c)].add(1, mode="drop"))

    def scatter(u, c):
        end = ends(u, c)
        first = jnp.full(n, n, jnp.int32).at[jnp.where(end > 0, end - 1, n)].min(slots, mode="drop")
        return jax.lax.cummin(first, reverse=True)

    def repeat(u, c):
        return jnp.repeat(slots, jnp.diff(ends(u, c), prepend=0), total_repeat_length=n)

    def search(method, u, c):
        return jnp.searchsorted(c, (slots + u) / n * c[-1], method=method)

    forms = {"histogram": histogram, "scatter-min": scatter, "repeat": repeat}
    forms |= {f"searchsorted {m}": partial(search, m) for m in ("scan", "sort")}

    def ancestors(form):
        @jax.jit
        def draw(seed, log_w):
            w = jnp.exp(log_w - jnp.max(log_w))
            return form(jax.random.uniform(jax.random.key(seed)), jnp.cumsum(w))

        return lambda seed: draw(seed, weights)

    return {f"form: {name}": ancestors(form) for name, form in forms.items()}


def blackjax_resamplers(log_w: np.ndarray) -> Thunks:
    """Seed -> ancestors, from linear weights."""
    try:
        from blackjax.smc import resampling
    except ImportError:
        return {}
    weights = jnp.float32(np.exp(log_w) / np.exp(log_w).sum())

    def ancestors(scheme):
        draw = jax.jit(lambda seed, w: scheme(jax.random.key(seed), w, len(log_w)))
        return lambda seed: draw(seed, weights)

    names = ("systematic", "stratified", "multinomial", "residual")
    return {f"blackjax {name}": ancestors(getattr(resampling, name)) for name in names}


def particles_resamplers(log_w: np.ndarray) -> Thunks:
    """Seed -> ancestors, from linear weights in float64."""
    try:
        from particles import resampling
    except ImportError:
        return {}
    weights = np.exp(log_w) / np.exp(log_w).sum()

    def ancestors(name):
        def draw(seed):
            np.random.seed(seed)
            return resampling.resampling(name, weights)

        return draw

    names = ("systematic", "stratified", "multinomial", "residual", "ssp", "killing")
    return {f"particles {name}": ancestors(name) for name in names}
