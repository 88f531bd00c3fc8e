"""Comparison of solvers on block problems under one protocol: :func:`solvers.compare`.

- ``comparison``: :class:`Comparison`, the results with all derived figures
- ``inputs``: the problems to compare on
- ``facts``: properties of a problem: size, form, coefficients, random states, plain descents
- ``protocol``: protocol and settings, stored in race.json
- ``results``: results.csv, one row per solve
- ``statistics``: time to solution with bootstrap intervals, sign tests, Holm correction
- ``measures``: figures per problem and backend, leaderboard, pairwise tests
- ``curves``: performance profiles, time to target, gap against time
- ``words``: formatting of figures; headline and warnings
- ``leaderboard``: the leaderboard for a terminal
- ``submission``: submission.csv in QOBLIB's columns
- ``output``: writes submission.csv and report.html
- ``page``: the HTML report
- ``racing``: runs the solves in pinned worker processes
"""

from solvers.comparison.comparison import Comparison
from solvers.comparison.racing.race import compare

__all__ = ["Comparison", "compare"]
