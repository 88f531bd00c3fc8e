"""The exceptions of this package."""


class ProblemError(ValueError):
    """Arguments that make no block problem: a wrong shape, an impossible cardinality, NaN coefficients."""


class FileFormatError(ProblemError):
    """A file that does not follow its format: damaged, truncated, oversized, or of another kind."""
