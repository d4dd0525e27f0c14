"""Cards: templates filled from a report or from the facts of a data set, and refused where a claim has no evidence."""

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from tasks.functional.report import Report, publication_refusals


def render_model_card(template: str, report: Report) -> str:
    """The card of an adapter from its report alone.

    Raises ValueError with every reason why the result may not be published: no audit, a leak, a class of one group ...
    """
    if refusals := publication_refusals(report):
        raise ValueError("this result may not be published: " + "; ".join(refusals))
    return fill(template, {"report": report.model_dump(mode="json")})


def fill(template: str, context: Mapping[str, Any], *, html: bool = False) -> str:
    """A filled template, escaped where it is `html`. A name the context lacks raises jinja2.UndefinedError."""
    return _compiled(template, html).render(context)


@functools.lru_cache(maxsize=8)
def _compiled(template: str, html: bool) -> Template:
    """Compiling takes longer than filling, and a report fills its page twice."""
    environment = Environment(
        undefined=StrictUndefined, autoescape=html, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template)
