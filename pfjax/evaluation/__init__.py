"""Metrics with intervals."""

from pfjax.evaluation.intervals import auc as auc
from pfjax.evaluation.intervals import clustered as clustered
from pfjax.evaluation.intervals import paired_difference as paired_difference
from pfjax.evaluation.intervals import wilson as wilson
