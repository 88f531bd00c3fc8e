"""HTML pages made from Jinja2 templates; the page of a comparison and the report of a pruning run share them.

- `render`: fills a template of any package, with the templates below at hand.
- `tables`: what a table shows and what it sorts by.
- `base.html`: the page around a report. It loads nothing from elsewhere.
- `parts.html`: macros for tables and lists.
- `style.css`: the one style, for light and dark, wide and narrow screens.
- `tables.js`: sorts tables by a click on a column's head.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(package: str, template: str, **values: object) -> str:
    """Fill a template; everything that is inserted into HTML is escaped.

    Args:
        package: import name of the package whose folder holds the template.
        template: the template's file name. Other endings than .html are plain text and are not escaped.
        values: the names that the template uses. A missing one raises an error.
    """
    return environment(package).get_template(template).render(**values)


@functools.cache
def environment(package: str) -> Environment:
    """The Jinja2 environment of a package's templates."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

    loaders = [PackageLoader(name, ".") for name in (package, "solvers.html")]
    made: Any = Environment(
        loader=ChoiceLoader(loaders), autoescape=select_autoescape(("html",)), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["counted"] = counted
    return made  # type: ignore[no-any-return]


def counted(number: int, what: str) -> str:
    """A number and what it counts, in the plural where it is not one: "3 problems"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
