"""A comparison as one self-contained HTML page.

- `page`: the values of the page.
- `sections`: the tables of quantum samples, and one section per problem.
- `charts`: step curves, ready to be drawn as SVG.
- `page.html`, `charts.html`, `page.js`: the page's template, how it draws a chart, and its filters.
"""

from solvers.comparison.page.page import render

__all__ = ["render"]
