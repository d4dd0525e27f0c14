"""Cards: templates filled from a report or from the facts of a data set, and refused where a claim has no evidence."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from tasks.functional.card_heads import as_yaml, base_head
from tasks.functional.dataset_card import dataset_card, licences_text
from tasks.functional.model_card import model_card
from tasks.functional.report import Report, publication_refusals

NOTHING_TIMED: Mapping[str, Any] = {"train_s": {}, "latency": {}}


def render_model_card(template: str, report: Report, timing: Mapping[str, Any] = NOTHING_TIMED) -> str:
    """The card of an adapter from its report and what was timed while it was made.

    Raises ValueError with every reason why the result may not be published: no audit, a leak, a class of one group, no
    interval ..., or naming what the report lacks.
    """
    if refusals := publication_refusals(report):
        raise ValueError("this result may not be published: " + "; ".join(refusals))
    try:
        content = model_card(report.model_dump(mode="json"), timing)
    except KeyError as error:
        raise ValueError(f"this result may not be published: its report does not say {error}") from error
    return card_of(template, content)


def render_dataset_card(template: str, facts: Mapping[str, Any]) -> str:
    """The card of a data set from its card.json."""
    return card_of(template, dataset_card(facts))


def render_base_card(template: str, facts: Mapping[str, Any]) -> str:
    """The card of a tiny base."""
    return card_of(template, {"head": as_yaml(base_head(facts)), "base": facts})


def render_licence(template: str, repo: str, made_from: Mapping[str, Any]) -> str:
    """LICENSE.md of what has no single licence: of a data set (card.json), or of weights (`repo` and `sha` of the data)."""
    lines, tables = licences_text(made_from)
    return fill(template, {"repo": repo, "lines": lines, "tables": tables})


def card_of(template: str, content: Mapping[str, Any]) -> str:
    """A filled template of markdown, in which one blank line parts what two or more did: which parts a card has differs."""
    return re.sub(r"\n{3,}", "\n\n", fill(template, content))


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
