"""D-Wave's Leap: hybrid solvers and QPUs behind the contract of all remote solvers."""

from solvers.leap.estimates import Plan
from solvers.leap.solver import Leap

__all__ = ["Leap", "Plan"]
