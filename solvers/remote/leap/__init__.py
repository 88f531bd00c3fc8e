"""D-Wave's Leap: hybrid solvers and QPUs behind the contract of all remote solvers."""

from solvers.remote.leap.estimates import Plan
from solvers.remote.leap.solver import Leap

__all__ = ["Leap", "Plan"]
