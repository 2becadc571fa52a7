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

from pfjax.smc._weighing import start as start
from pfjax.smc._weighing import weighed as weighed
from pfjax.smc.annealed import Schedule as Schedule
from pfjax.smc.annealed import annealed as annealed
from pfjax.smc.auxiliary import Forecast as Forecast
from pfjax.smc.auxiliary import auxiliary_filter as auxiliary_filter
from pfjax.smc.backward import backward_sampling as backward_sampling
from pfjax.smc.backward import smoothing_weights as smoothing_weights
from pfjax.smc.choice import choice as choice
from pfjax.smc.choice import systematic_choice as systematic_choice
from pfjax.smc.conditional import adaptive_conditional as adaptive_conditional
from pfjax.smc.conditional import conditional as conditional
from pfjax.smc.conditional import conditional_killing as conditional_killing
from pfjax.smc.conditional import conditional_multinomial as conditional_multinomial
from pfjax.smc.conditional import conditional_residual as conditional_residual
from pfjax.smc.conditional import conditional_stratified as conditional_stratified
from pfjax.smc.conditional import conditional_systematic as conditional_systematic
from pfjax.smc.conditional import with_parent as with_parent
from pfjax.smc.conditional_filter import ancestor_sampling_filter as ancestor_sampling_filter
from pfjax.smc.conditional_filter import conditional_particle_filter as conditional_particle_filter
from pfjax.smc.estimates import EvidenceBounds as EvidenceBounds
from pfjax.smc.estimates import evidence_bounds as evidence_bounds
from pfjax.smc.estimates import mean_log_evidence as mean_log_evidence
from pfjax.smc.estimates import relative_variance as relative_variance
from pfjax.smc.feynman_kac import lift as lift
from pfjax.smc.feynman_kac import per_particle as per_particle
from pfjax.smc.genealogy import alive as alive
from pfjax.smc.genealogy import ancestral_lineage as ancestral_lineage
from pfjax.smc.genealogy import eve_indices as eve_indices
from pfjax.smc.genealogy import trajectories as trajectories
from pfjax.smc.genealogy import unique_ancestors as unique_ancestors
from pfjax.smc.guided import Guided as Guided
from pfjax.smc.guided import Proposal as Proposal
from pfjax.smc.guided import guided as guided
from pfjax.smc.guided import lift_proposal as lift_proposal
from pfjax.smc.hidden_markov import HiddenMarkov as HiddenMarkov
from pfjax.smc.hidden_markov import forward_algorithm as forward_algorithm
from pfjax.smc.hidden_markov import forward_backward as forward_backward
from pfjax.smc.hidden_markov import hidden_markov as hidden_markov
from pfjax.smc.hidden_markov import hidden_markov_proposal as hidden_markov_proposal
from pfjax.smc.hidden_markov import posterior_path as posterior_path
from pfjax.smc.hidden_markov import value_function as value_function
from pfjax.smc.islands import islands as islands
from pfjax.smc.kalman import Gaussians as Gaussians
from pfjax.smc.kalman import kalman_filter as kalman_filter
from pfjax.smc.kalman import kalman_smoother as kalman_smoother
from pfjax.smc.kalman import nile as nile
from pfjax.smc.kernels import Kernel as Kernel
from pfjax.smc.kernels import KernelInfo as KernelInfo
from pfjax.smc.kernels import LogDensity as LogDensity
from pfjax.smc.kernels import random_walk as random_walk
from pfjax.smc.kernels import repeated as repeated
from pfjax.smc.killing import killing as killing
from pfjax.smc.linear_gaussian import LinearGaussian as LinearGaussian
from pfjax.smc.linear_gaussian import linear_gaussian as linear_gaussian
from pfjax.smc.linear_gaussian import linear_gaussian_proposal as linear_gaussian_proposal
from pfjax.smc.lookahead import lookahead_filter as lookahead_filter
from pfjax.smc.mesh import all_gather_rows as all_gather_rows
from pfjax.smc.mesh import all_to_all_rows as all_to_all_rows
from pfjax.smc.mesh import on_mesh as on_mesh
from pfjax.smc.mesh import shard_particles as shard_particles
from pfjax.smc.model_family import ModelFamily as ModelFamily
from pfjax.smc.model_family import ThetaProposal as ThetaProposal
from pfjax.smc.noise import normals as normals
from pfjax.smc.optimal import optimal as optimal
from pfjax.smc.parallel_tempering import Exchange as Exchange
from pfjax.smc.parallel_tempering import Replicas as Replicas
from pfjax.smc.parallel_tempering import parallel_tempering as parallel_tempering
from pfjax.smc.particle_filter import gather as gather
from pfjax.smc.particle_filter import particle_filter as particle_filter
from pfjax.smc.particle_filter import resample as resample
from pfjax.smc.particle_gibbs import Sweep as Sweep
from pfjax.smc.particle_gibbs import backward_gibbs as backward_gibbs
from pfjax.smc.particle_gibbs import particle_gibbs as particle_gibbs
from pfjax.smc.pmmh import MarginalChain as MarginalChain
from pfjax.smc.pmmh import MarginalMove as MarginalMove
from pfjax.smc.pmmh import pmmh as pmmh
from pfjax.smc.policies import entropic as entropic
from pfjax.smc.policies import entropy_annealing as entropy_annealing
from pfjax.smc.policies import ess_annealing as ess_annealing
from pfjax.smc.policies import linear_annealing as linear_annealing
from pfjax.smc.policies import paper as paper
from pfjax.smc.policies import rebase as rebase
from pfjax.smc.policies import steer as steer
from pfjax.smc.policies import unbiased_entropic as unbiased_entropic
from pfjax.smc.resampling import multinomial as multinomial
from pfjax.smc.resampling import stratified as stratified
from pfjax.smc.resampling import systematic as systematic
from pfjax.smc.residual import residual as residual
from pfjax.smc.runners import iterate as iterate
from pfjax.smc.runners import run as run
from pfjax.smc.runners import run_until as run_until
from pfjax.smc.samplers import NextTemperature as NextTemperature
from pfjax.smc.samplers import Posterior as Posterior
from pfjax.smc.samplers import Rejuvenate as Rejuvenate
from pfjax.smc.samplers import Tempered as Tempered
from pfjax.smc.samplers import resample_move as resample_move
from pfjax.smc.samplers import sampler as sampler
from pfjax.smc.ssp import ssp as ssp
from pfjax.smc.state_space import state_space as state_space
from pfjax.smc.stochastic_volatility import StochasticVolatility as StochasticVolatility
from pfjax.smc.stochastic_volatility import quadrature_filter as quadrature_filter
from pfjax.smc.stochastic_volatility import simulate_returns as simulate_returns
from pfjax.smc.stochastic_volatility import stochastic_volatility as stochastic_volatility
from pfjax.smc.tabular import TokenSequence as TokenSequence
from pfjax.smc.tabular import enumerate_sequences as enumerate_sequences
from pfjax.smc.tabular import tabular_language_model as tabular_language_model
from pfjax.smc.tempering import TemperingRule as TemperingRule
from pfjax.smc.tempering import adaptive_tempering as adaptive_tempering
from pfjax.smc.tempering import at_posterior as at_posterior
from pfjax.smc.tempering import ess_after as ess_after
from pfjax.smc.tempering import tempering as tempering
from pfjax.smc.transformers import Scored as Scored
from pfjax.smc.transformers import power as power
from pfjax.smc.transformers import tempered_target as tempered_target
from pfjax.smc.transformers import twist as twist
from pfjax.smc.types import ALL_DEAD as ALL_DEAD
from pfjax.smc.types import NOT_FINITE as NOT_FINITE
from pfjax.smc.types import OK as OK
from pfjax.smc.types import Algorithm as Algorithm
from pfjax.smc.types import Conditional as Conditional
from pfjax.smc.types import Criterion as Criterion
from pfjax.smc.types import FeynmanKac as FeynmanKac
from pfjax.smc.types import Horizon as Horizon
from pfjax.smc.types import Info as Info
from pfjax.smc.types import Init as Init
from pfjax.smc.types import LogTransition as LogTransition
from pfjax.smc.types import Move as Move
from pfjax.smc.types import Propagate as Propagate
from pfjax.smc.types import Resampler as Resampler
from pfjax.smc.types import Rewind as Rewind
from pfjax.smc.types import Splice as Splice
from pfjax.smc.types import State as State
from pfjax.smc.types import Weigh as Weigh
from pfjax.smc.types import bounded as bounded
from pfjax.smc.waste_free import waste_free as waste_free
from pfjax.smc.weights import add_exactly as add_exactly
from pfjax.smc.weights import conditional_ess as conditional_ess
from pfjax.smc.weights import effective_sample_size as effective_sample_size
from pfjax.smc.weights import log_ratio as log_ratio
from pfjax.smc.weights import log_sum_exp as log_sum_exp
from pfjax.smc.weights import normalise as normalise
from pfjax.smc.weights import usable as usable
from pfjax.smc.wrappers import adaptive_systematic as adaptive_systematic
from pfjax.smc.wrappers import ess_below as ess_below
from pfjax.smc.wrappers import every as every
from pfjax.smc.wrappers import in_place as in_place
from pfjax.smc.wrappers import never as never
from pfjax.smc.wrappers import stop_gradient as stop_gradient
from pfjax.smc.wrappers import when as when
