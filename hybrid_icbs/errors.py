"""Errors that the orchestrator raises; each message says what was given, what is allowed and what to do."""


class PruningError(RuntimeError):
    """A pruning run cannot go on as asked."""


class UnsupportedLayerError(PruningError):
    """A layer in scope is of a type whose per-sample gradients cannot be measured."""


class StaleBlock(PruningError):
    """An answer whose weights have changed since its block was asked."""


class RunFolderError(PruningError):
    """A run folder cannot be written, read, locked or resumed."""
