"""Errors that solvers raise; each message says what was given, what is allowed and what to do."""


class SolverError(RuntimeError):
    """A solver could not do its work."""


class OptionError(ValueError):
    """An option, or a backend's name, that does not exist or cannot have the value given."""


class UnavailableError(SolverError):
    """A backend lacks what it needs; the message names the command or variable that mends it."""
