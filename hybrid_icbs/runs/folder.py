"""Names of the files in a run folder; importing it takes no torch."""

from __future__ import annotations

FILE = "journal.sqlite"
"""The journal; a folder that has one is a run folder."""
