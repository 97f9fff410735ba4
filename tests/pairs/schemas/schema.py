"""What an entry of the table of schemas is, and the made-up questions that its rows are built of.

An entry makes a row (or several) of each :class:`Item` in the columns of the published data, and says which pair the
item is: the two are written apart from each other, and from the code that reads rows.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Turns = list[tuple[str, str]]  # (role, text)


@dataclasses.dataclass(frozen=True)
class Item:
    """A made-up question with a good, a middling and a bad answer.

    Attributes:
        i: Its number; of every second item the better answer is the first of two.
        ask: The question.
        good: The best answer.
        bad: The worst.
        mid: One between them.
        system: A system prompt.
    """

    i: int
    ask: str
    good: str
    bad: str
    mid: str
    system: str

    @property
    def is_first(self) -> bool:
        """The good answer is the first of the two."""
        return self.i % 2 == 0

    @property
    def is_tie(self) -> bool:
        """Votes on this item are a tie, where a schema has ties."""
        return self.i == 5

    @property
    def first(self) -> str:
        return self.good if self.is_first else self.bad

    @property
    def second(self) -> str:
        return self.bad if self.is_first else self.good

    def vote(self, first: Any, second: Any, tie: Any = None) -> Any:
        """Return the value that says which answer won; never a tie unless ``tie`` is given."""
        if tie is not None and self.is_tie:
            return tie
        return first if self.is_first else second


_TEXTS = """
Why does bread rise?|Yeast makes gas that the dough holds.|It just does.|Because of the yeast.|a baker
Name a tree that loses its leaves.|The oak drops its leaves in autumn.|A cactus.|Oak.|a gardener
How long is a marathon?|It is 42.195 kilometres.|Very long indeed.|About 42 km.|a coach
What do bees collect?|They collect nectar and pollen.|Money, I think.|Nectar.|a beekeeper
Where is Lake Titicaca?|Between Peru and Bolivia, high in the Andes.|In Finland.|South America.|a geographer
Translate "good night" into Spanish.|Buenas noches.|Bonne nuit.|Noches buenas.|a translator
Which metal is liquid at room temperature?|Mercury is.|Iron is.|Mercury, or gallium on a hot day.|a chemist
Suggest a name for a grey cat.|How about Ash?|Cat.|Smoky Grey Senior.|a friend of animals
"""
ITEMS = [
    Item(i, ask, good, bad, mid, f"You are {who}.")
    for i, (ask, good, bad, mid, who) in enumerate(line.split("|") for line in _TEXTS.strip().splitlines())
]


@dataclasses.dataclass(frozen=True)
class Expected:
    """A pair as it must come out.

    Attributes:
        prompt: The turns before the reply.
        chosen: The better reply.
        rejected: The other.
        margin: By how much it is better; None is not compared.
    """

    prompt: Turns
    chosen: str
    rejected: str
    margin: float | None = None


def asked(item: Item) -> Expected | None:
    """The pair of good over bad behind the question alone."""
    return Expected([("user", item.ask)], item.good, item.bad)


def asked_with_system(item: Item) -> Expected | None:
    """The same behind a system turn."""
    return Expected([("system", item.system), ("user", item.ask)], item.good, item.bad)


def no_tie(item: Item) -> Expected | None:
    """The pair of good over bad; none of the item that is a tie."""
    return None if item.is_tie else asked(item)


@dataclasses.dataclass(frozen=True)
class Schema:
    """A published schema.

    Attributes:
        name: What it is called.
        where: Where it is published: a data set of the hub, or the tool that writes it.
        row: Makes an item's row, or a list of its rows.
        expect: Returns an item's pair, or None where it holds none.
        params: The keys of `ingest` that it takes; none as it stands.
        refused: A part of the message that refuses it, for data that hold no pairs.
        why: Why it is refused, or what else is worth knowing.
        file: The name of its file; its ending says how rows are written.
    """

    name: str
    where: str
    row: Callable[[Item], Any]
    expect: Callable[[Item], Expected | None] = asked
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    refused: str = ""
    why: str = ""
    file: str = "rows.jsonl"

    def rows(self) -> list[Any]:
        """Return the rows of all items, in order."""
        made = [self.row(item) for item in ITEMS]
        return [row for rows in made for row in (rows if isinstance(rows, list) else [rows])]

    def expected(self) -> list[Expected]:
        """Return the pairs of all items, in order."""
        return [pair for pair in map(self.expect, ITEMS) if pair]

    def write(self, folder: Path) -> Path:
        """Write the rows as their file and return its path."""
        path, rows = folder / self.file, self.rows()
        if path.suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            path.write_text(text.getvalue(), encoding="utf-8", newline="")
        elif path.name == "columns.json":
            columns = {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
            path.write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
        else:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            path.write_text("".join(lines), encoding="utf-8")
        return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def talk(item: Item, reply: str) -> list[dict[str, str]]:
    """The whole conversation that ends with a reply."""
    return [user(item.ask), assistant(reply)]


def columns(**names: Any) -> dict[str, Any]:
    """The line of params that names columns."""
    return {"columns": names}


def ignore(*names: str) -> dict[str, Any]:
    """The line of params that waives columns."""
    return {"ignore": list(names)}
