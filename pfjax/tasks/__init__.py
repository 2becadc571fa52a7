"""Tasks: generated problems, their exact checkers, and grading."""

from pfjax.tasks.canonical import normal_form as normal_form
from pfjax.tasks.extraction import answer_is as answer_is
from pfjax.tasks.extraction import every_box as every_box
from pfjax.tasks.extraction import extract_answer as extract_answer
from pfjax.tasks.extraction import first_of as first_of
from pfjax.tasks.extraction import hashes as hashes
from pfjax.tasks.extraction import last_box as last_box
from pfjax.tasks.extraction import last_number as last_number
from pfjax.tasks.grader import Grader as Grader
from pfjax.tasks.grader import same_math as same_math
from pfjax.tasks.grading import same_answer as same_answer
from pfjax.tasks.grading import vote_keys as vote_keys
from pfjax.tasks.orchard import Problem as Problem
from pfjax.tasks.orchard import generate as generate
from pfjax.tasks.orchard_checks import check_steps as check_steps
from pfjax.tasks.orchard_checks import slip_of as slip_of
from pfjax.tasks.orchard_checks import with_slip as with_slip
