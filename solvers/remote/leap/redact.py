"""Tokens kept out of logs and messages: D-Wave's loggers print them at their lower levels.

A filter works on the loggers it hangs on, not on their children, so :func:`install` hangs one on every logger of the
toolkits; code that imports more of them calls it again.
"""

from __future__ import annotations

import logging
import re
import traceback

HIDDEN = "[token]"

TOOLKITS = ("dwave", "urllib3", "requests")

_MARKED = re.compile(
    r"""((?:x-auth-token|refresh_token|access_token|token|authorization)['"]?\]?\s*(?:[:=]\s*|,\s*)(?:b?['"]|bearer\s+)?)"""
    r"""(?!None\b|\[token\])([^'"\s,;)}\]]+)""",
    re.IGNORECASE,
)
_SHAPED = re.compile(r"\b[A-Za-z][A-Za-z0-9]{1,7}-[0-9a-fA-F]{32,64}\b")  # what D-Wave's own tokens look like
_SHORTEST = 4  # a "token" of fewer characters stands in ordinary words

_secrets: set[str] = set()


def keep_secret(*values: str | None) -> None:
    """From now on hide these values wherever they stand, whole or not, in what :func:`redact` is given."""
    _secrets.update(value for value in values if value and len(value) >= _SHORTEST)


def redact(text: str) -> str:
    """The text without tokens: those that are known, and whatever is marked as one or looks like one."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SHAPED.sub(HIDDEN, _MARKED.sub(rf"\1{HIDDEN}", text))


class Redaction(logging.Filter):
    """Lets every record pass, without tokens in its message, its arguments or its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record in place."""
        try:
            record.msg = redact(record.getMessage())
        except Exception:  # a message that does not fit its arguments: logging would print both as they are
            record.msg = redact(f"{record.msg!r} {record.args!r}")
        record.args = ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
            record.exc_info = None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


_filter = Redaction()


def install() -> None:
    """Hang the filter on all loggers of the toolkits that exist by now."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in TOOLKITS]
    for name in (*TOOLKITS, *names):
        logging.getLogger(name).addFilter(_filter)  # a filter hangs on a logger once, however often it is added
