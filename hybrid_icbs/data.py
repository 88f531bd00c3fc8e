"""Calibration data that a command line names."""

from __future__ import annotations

from hybrid_icbs.calibration import CalibrationData
from hybrid_icbs.errors import PruningError
from hybrid_icbs.specs import call, explained, is_spec


def load_data(spec: str, what: str = "data") -> CalibrationData:
    """The calibration data that a text names.

    Args:
        spec: `package.module:function`, a function without arguments that returns what
            :class:`~hybrid_icbs.calibration.CalibrationData` takes: a pair of tensors (inputs, labels), a DataLoader,
            or an iterable of such batches.
        what: what it is, in messages.

    Raises:
        PruningError: nothing of that name, a function that fails, or something that is no data.

    Example:
        >>> len(load_data("hybrid_icbs.digits:load_digits"))
        1347
    """
    if not is_spec(spec) and ".py" not in spec:
        return _corpus(spec, what)
    given = call(spec, what)
    try:
        return CalibrationData(given)
    except PruningError as error:
        raise PruningError(f"{what} {spec!r}: {error}") from error
    except Exception as error:  # whatever a user's iterable raises while it is read
        raise PruningError(f"{what} {spec!r} raised {explained(error)}") from error


def _corpus(spec: str, what: str) -> CalibrationData:
    """Where a text file, or the name of a text corpus for language models, will be read."""
    raise PruningError(
        f"{what} {spec!r} is not package.module:function; text corpora for language models are not supported yet"
    )
