"""This machine's ceilings, and the engine's figures against them."""

from pfjax.bench.case import Options as Options
from pfjax.bench.case import endless as endless
from pfjax.bench.ceilings import Rate as Rate
from pfjax.bench.ceilings import best_copy as best_copy
from pfjax.bench.ceilings import copies as copies
from pfjax.bench.ceilings import matmul as matmul
from pfjax.bench.fill import filled as filled
from pfjax.bench.fill import random_module as random_module
from pfjax.bench.machine import machine as machine
from pfjax.bench.measure import Report as Report
from pfjax.bench.measure import run as run
from pfjax.bench.operations import count_weights as count_weights
from pfjax.bench.operations import matrix_weights as matrix_weights
from pfjax.bench.operations import operations as operations
from pfjax.bench.operations import prefill_operations as prefill_operations
from pfjax.bench.operations import search_operations as search_operations
from pfjax.bench.timing import timed as timed
