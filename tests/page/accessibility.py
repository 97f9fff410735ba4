"""Rules of accessible pages, checked by hand, for no checker such as axe-core is among the packages of this project.

`faults` reads the HTML. `IN_BROWSER` is a script that looks at the page as it is drawn, from a document that frames it.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "br", "input"})


class _Elements(HTMLParser):
    """Every element with its attributes and the tags above it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()


def faults(html: str) -> list[str]:
    """Return what stands in the way of people who read a page with a screen reader or a keyboard."""
    elements = _Elements(html).found
    return [*_document(elements), *_headings(elements), *_labels(elements), *_structure(elements)]


Elements = list[tuple[str, dict[str, str | None], tuple[str, ...]]]


def _document(elements: Elements) -> Iterator[str]:
    tags = [tag for tag, _, above in elements if "svg" not in above]
    if next(attributes for tag, attributes, _ in elements if tag == "html").get("lang") != "en":
        yield "the page names no language"
    for tag in ("main", "title", "h1"):
        if tags.count(tag) != 1:
            yield f"the page has {tags.count(tag)} <{tag}>"
    ids = [attributes["id"] for _, attributes, _ in elements if "id" in attributes]
    yield from (f"the id {name} stands twice" for name in set(ids) if ids.count(name) > 1)


def _headings(elements: Elements) -> Iterator[str]:
    levels = [int(tag[1]) for tag, _, _ in elements if tag in {"h1", "h2", "h3", "h4", "h5", "h6"}]
    for before, level in zip([0, *levels], levels, strict=False):
        if level > before + 1:
            yield f"<h{level}> follows <h{before}>"


def _labels(elements: Elements) -> Iterator[str]:
    labelled = {attributes.get("for") for tag, attributes, _ in elements if tag == "label"}
    for tag, attributes, above in elements:
        is_hidden, name = attributes.get("aria-hidden") == "true", attributes.get("aria-label")
        if tag == "input" and (attributes.get("id") not in labelled or "fieldset" not in above):
            yield f"an input without label or fieldset: {attributes}"
        is_drawing = tag == "svg" and "svg" not in above and not is_hidden
        if is_drawing and (attributes.get("role") != "img" or not name):
            yield f"a drawing without a text: {attributes}"
        if (tag == "nav" or attributes.get("role") in ("region", "group")) and not name:
            yield f"a region without a name: {attributes}"
        if tag == "th" and attributes.get("scope") not in ("col", "row"):
            yield "a table's header without scope"


def _structure(elements: Elements) -> Iterator[str]:
    """Find elements where HTML allows none such, which readers then skip or misread."""
    parents = {
        "dt": {"dl", "div"},
        "dd": {"dl", "div"},
        "li": {"ul", "ol"},
        "summary": {"details"},
        "legend": {"fieldset"},
    }
    for tag, _, above in elements:
        if tag in parents and above[-1] not in parents[tag]:
            yield f"<{tag}> stands in <{above[-1]}>"
        if tag == "style" and above[-1] != "head":
            yield "a style stands in the body"


# Called with the page's window: contrast of each text with what lies behind it, what scrolls without a keyboard, and
# what is too small to hit (WCAG 2.2: 1.4.3, 2.1.1, 2.5.8).
IN_BROWSER = """
function faults(page) {
  const found = new Set(), document = page.document;
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(page.getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = page.getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const colour = numbers(element.closest("svg") ? style.fill : style.color);
    const [dark, bright] = [light(colour), light(behind(element))].sort((a, b) => a - b);
    if ((bright + 0.05) / (dark + 0.05) < 4.5) found.add("contrast of " + walker.currentNode.data.trim().slice(0, 40));
  }
  for (const element of document.querySelectorAll("main *")) {
    const style = page.getComputedStyle(element), scrolls = /auto|scroll/.test(style.overflowY + style.overflowX);
    const overflows = element.scrollHeight > element.clientHeight + 1 || element.scrollWidth > element.clientWidth + 1;
    if (scrolls && overflows && element.tabIndex < 0)
      found.add("scrolls without a keyboard: " + element.className);
  }
  for (const element of document.querySelectorAll("label, summary, nav a")) {
    const box = element.getBoundingClientRect();
    if (box.width && (box.height < 20 || box.width < 24)) found.add("too small: " + element.textContent.slice(0, 40));
  }
  return [...found];
}
"""
