"""Errors of D-Wave's client library and of the network: whether to retry, and the message."""

from __future__ import annotations

from dataclasses import dataclass

from solvers.errors import RemoteError, ServiceError, SolverError, UnavailableError
from solvers.remote.leap import redact

LONGEST_WAIT = 300.0
"""Seconds: the longest wait asked for by the service (Retry-After) that is kept."""

ADVICE = (
    "get a token from D-Wave Leap (https://cloud.dwavesys.com/leap) and run `dwave setup`, or set DWAVE_API_TOKEN; "
    "docs/hardware.md tells more"
)


@dataclass(frozen=True)
class Failure:
    """What went wrong, and what that means for the next attempt.

    Attributes:
        error: to raise when no attempt is left.
        passing: whether another attempt may succeed.
        sent: whether the service may have acted on the request nevertheless.
        wait: seconds after which the service wants to be asked again, or None.
        gone: whether the service knows nothing of what it was asked for.
    """

    error: SolverError
    passing: bool = False
    sent: bool = False
    wait: float | None = None
    gone: bool = False


def classified(error: BaseException, doing: str) -> Failure:
    """What an error of the client library, or of the network, means.

    Args:
        error: what was raised.
        doing: what was being done, for the message: "submitting ..." .
    """
    import requests
    import urllib3
    from dwave.cloud import exceptions
    from dwave.cloud.api import exceptions as api

    text = redact.redact(f"{error}" or type(error).__name__).strip()[:500]
    if isinstance(error, SolverError):
        return Failure(error, passing=isinstance(error, RemoteError))
    if isinstance(error, exceptions.ProblemUploadError):
        inner = classified(error.__cause__, doing) if error.__cause__ is not None else None
        return inner or Failure(RemoteError(f"{doing}: the upload was cut off ({text})"), passing=True)
    if isinstance(error, exceptions.SolverNotFoundError):
        return Failure(ServiceError(f"{doing}: {text}; `dwave solvers --list` shows what this account may use"))
    if isinstance(error, exceptions.SolverOfflineError):
        return Failure(
            RemoteError(f"{doing}: the solver is offline ({text}); try later, or name another with solver_name=")
        )
    if isinstance(error, exceptions.CanceledFutureError):
        return Failure(ServiceError(f"{doing}: the problem was cancelled"))
    code = _status(error)
    if code is not None:
        return refusal(code, text, doing, _retry_after(error))
    if isinstance(error, exceptions.SolverFailureError):  # the job ended in an error of its own
        return Failure(ServiceError(f"{doing}: the service could not solve the problem: {text}"))
    if isinstance(error, api.RequestTimeout | exceptions.Timeout | requests.exceptions.Timeout | TimeoutError):
        return Failure(RemoteError(f"{doing}: the service did not answer in time"), passing=True, sent=True)
    if isinstance(error, exceptions.InvalidAPIResponseError | api.ResourceBadResponseError | ValueError):
        return Failure(RemoteError(f"{doing}: the service's reply makes no sense ({text})"), passing=True, sent=True)
    if isinstance(error, requests.exceptions.RequestException | urllib3.exceptions.HTTPError | OSError):
        kind = type(error).__name__
        return Failure(RemoteError(f"{doing}: the connection failed ({kind}: {text})"), passing=True, sent=True)
    return Failure(ServiceError(f"{doing}: {type(error).__name__}: {text}"))


def _status(error: BaseException) -> int | None:
    """The HTTP status or error code behind an error."""
    from dwave.cloud import exceptions

    if isinstance(error, exceptions.SolverAuthenticationError):
        return 401
    code = getattr(error, "error_code", None)
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)
    return int(code) if isinstance(code, int) and code >= 400 else None


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return min(max(float(headers["Retry-After"]), 0.0), LONGEST_WAIT)
    except (KeyError, ValueError):
        return None


def refusal(code: int, text: str, doing: str, wait: float | None) -> Failure:
    """What an error code of the service means."""
    if code == 401:
        return Failure(UnavailableError(f"{doing}: the service refuses the token (401); {ADVICE}"))
    if code == 403:
        return Failure(ServiceError(f"{doing}: this account may not do that (403: {text})"))
    if code in (408, 425, 429) or 500 <= code < 600:
        # 429 comes before anything is done; a gateway's 5xx may come after.
        return Failure(
            RemoteError(f"{doing}: the service is busy or ill ({code}: {text})"),
            passing=True,
            sent=code != 429,
            wait=wait,
        )
    return Failure(ServiceError(f"{doing}: the service refuses ({code}: {text})"), gone=code in (404, 410))
