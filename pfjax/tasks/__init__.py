"""Tasks: generated problems, their exact checkers, and grading."""

from pfjax.tasks.grading import extract_answer as extract_answer
from pfjax.tasks.grading import normal_form as normal_form
from pfjax.tasks.grading import same_answer as same_answer
from pfjax.tasks.orchard import Problem as Problem
from pfjax.tasks.orchard import check_steps as check_steps
from pfjax.tasks.orchard import generate as generate
