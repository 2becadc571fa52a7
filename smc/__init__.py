"""Sequential Monte Carlo on pytrees, as pure JAX functions.

A `FeynmanKac` model and a `Resampler` make an `Algorithm`, and a runner runs it. Knows nothing of
language, network models or files.

>>> import jax, jax.numpy as jnp
>>> from pfjax import smc
>>> y = jnp.array([0.3, -0.2, 1.1])
>>> model = smc.lift(
...     init=lambda key: jax.random.normal(key),
...     propagate=lambda key, x, t: 0.9 * x + 0.5 * jax.random.normal(key),
...     log_potential=lambda x, t: jax.scipy.stats.norm.logpdf(y[t], x, 1.0),
... )
>>> state, infos = smc.run(jax.random.key(0), smc.particle_filter(model, 100), num_steps=3)
>>> state.log_weights.shape, infos.ancestors.shape
((100,), (3, 100))
"""

from pfjax.smc.feynman_kac import lift as lift
from pfjax.smc.genealogy import alive as alive
from pfjax.smc.genealogy import ancestral_lineage as ancestral_lineage
from pfjax.smc.particle_filter import gather as gather
from pfjax.smc.particle_filter import particle_filter as particle_filter
from pfjax.smc.resampling import multinomial as multinomial
from pfjax.smc.resampling import systematic as systematic
from pfjax.smc.runners import iterate as iterate
from pfjax.smc.runners import run as run
from pfjax.smc.runners import run_until as run_until
from pfjax.smc.types import ALL_DEAD as ALL_DEAD
from pfjax.smc.types import OK as OK
from pfjax.smc.types import Algorithm as Algorithm
from pfjax.smc.types import Criterion as Criterion
from pfjax.smc.types import FeynmanKac as FeynmanKac
from pfjax.smc.types import Info as Info
from pfjax.smc.types import Init as Init
from pfjax.smc.types import Move as Move
from pfjax.smc.types import Propagate as Propagate
from pfjax.smc.types import Resampler as Resampler
from pfjax.smc.types import State as State
from pfjax.smc.types import Weigh as Weigh
from pfjax.smc.weights import effective_sample_size as effective_sample_size
from pfjax.smc.weights import log_ratio as log_ratio
from pfjax.smc.weights import log_sum_exp as log_sum_exp
from pfjax.smc.weights import normalise as normalise
from pfjax.smc.wrappers import adaptive_systematic as adaptive_systematic
from pfjax.smc.wrappers import ess_below as ess_below
from pfjax.smc.wrappers import every as every
from pfjax.smc.wrappers import in_place as in_place
from pfjax.smc.wrappers import never as never
from pfjax.smc.wrappers import when as when
