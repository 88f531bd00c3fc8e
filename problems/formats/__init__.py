"""File formats of block problems: one module a format, behind one registry.

- `format`: what a format is (:class:`Format`)
- `registry`: which format a file has; reading and writing; formats of third parties
- `native`: this project's files, NAME.bqm or NAME.npz with NAME.json and NAME.labels.npz; bare .bqm files of dimod
- `mdplib`: instances of the maximum-diversity library
- `bqm`, `npz`: dimod's binary file and numpy's archive as arrays, read with every size checked
- `text`: rows of numbers in text files, with errors that name the line
"""

from problems.formats.format import Format, required
from problems.formats.registry import known, located, named, read, read_strictly, recognised, register, write

__all__ = [
    "Format",
    "known",
    "located",
    "named",
    "read",
    "read_strictly",
    "recognised",
    "register",
    "required",
    "write",
]
