"""Errors that this package raises; each message says what was given, what is allowed and what to do."""


class ProblemError(ValueError):
    """A block problem cannot be what was asked: wrong shape, impossible cardinality, NaN coefficients."""


class FileFormatError(ProblemError):
    """A file does not hold what its format demands: damaged, truncated, oversized, or of another kind."""
