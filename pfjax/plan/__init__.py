"""What a policy and a PRM need on a device mesh, from config.json alone, before anything is loaded."""

from pfjax.plan.planner import Plan as Plan
from pfjax.plan.planner import Request as Request
from pfjax.plan.planner import make_plan as make_plan
