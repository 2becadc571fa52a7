"""Search methods and baselines on one engine."""

from pfjax.search.methods import METHODS as METHODS
from pfjax.search.methods import Method as Method
from pfjax.search.methods import find as find
