"""The report page: facts and charts in the template, with every text escaped.

Answers are untrusted text. Jinja's autoescaping is on everywhere, undefined names are errors, and the page's
Content-Security-Policy forbids scripts and loads, in case an escape ever fails.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jinja2
from markupsafe import Markup

from tasks.page import charts, words
from tasks.page.curve_files import curve_charts
from tasks.page.facts import Facts
from tasks.page.snippet import loading_snippet

FOLDER = Path(__file__).parent
_FILTERS = (words.percent, words.interval, words.number, words.signed, words.count, words.many, words.visible)


def environment(*folders: Path) -> jinja2.Environment:
    """Return what renders the templates of this folder, and of ``folders``, with every text escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([FOLDER, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    templates.filters |= {function.__name__: function for function in _FILTERS}
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    templates.globals |= {"words": words, "charts": charts, "style": style}
    return templates


def render(facts: Facts, title: str, excerpt_chars: int, opened: int) -> str:
    """Return the page.

    Args:
        facts: All facts on it.
        title: Its title.
        excerpt_chars: Characters shown of each question or answer; the rest is counted.
        opened: How many of the judged prompts stand opened.
    """
    return (
        environment()
        .get_template("template.html.jinja")
        .render(
            **vars(facts),
            title=title,
            limit=excerpt_chars,
            opened=opened,
            counts=Counter(words.outcome(prompt.score) for prompt in facts.answers.prompts),
            curves=curve_charts(facts.training),
            snippet=loading_snippet(facts.base),
        )
    )
