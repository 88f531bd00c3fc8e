"""Errors that solvers raise; each message says what was given, what is allowed and what to do."""


class SolverError(RuntimeError):
    """A solver could not do its work."""


class OptionError(ValueError):
    """An option, or a backend's name, that does not exist or cannot have the value given."""


class UnavailableError(SolverError):
    """A backend lacks what it needs; the message names the command or variable that mends it."""


class RemoteError(SolverError):
    """A service, or the way to it, failed for now: the same call may succeed later, and nothing sent is lost."""


class ServiceError(SolverError):
    """A service refused a call for good: token, size or limit, or a job that was cancelled."""


class BudgetReached(SolverError):
    """The next call would go beyond the calls or billed seconds that the run may spend."""
