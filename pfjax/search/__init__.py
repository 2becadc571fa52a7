"""What a user asks and gets: methods, rewards and models are values, on one engine."""

from pfjax.reasoning import potentials as potentials
from pfjax.reasoning.asked import RewardError as RewardError
from pfjax.reasoning.move import move_in_place as move_in_place
from pfjax.reasoning.potentials import Potential as Potential
from pfjax.search import answers as answers
from pfjax.search import rewards as rewards
from pfjax.search.methods import METHODS as METHODS
from pfjax.search.methods import Method as Method
from pfjax.search.methods import find as find
from pfjax.search.result import Result as Result
from pfjax.search.result import Solution as Solution
from pfjax.settings.execution import Execution as Execution
