"""Small inputs that the tests of this room share: files of rows, tokenizers, a pinned base, a hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

from tasks.core.files import atomic_folder, digest_of, read_json, sha256_file, write_text
from tasks.pairs.record.pair import Message, Pair


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines, gzipped if the name says so."""
    data = json_lines(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON lines file, gzipped or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def text_rows(count: int) -> list[dict[str, str]]:
    """Return plain rows with distinct prompts."""
    return [{"prompt": f"Question {i}?", "chosen": f" Yes, {i}.", "rejected": " No."} for i in range(count)]


def chat(*turns: str) -> tuple[Message, ...]:
    """Return user and assistant turns in alternation, beginning with the user."""
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))


def pair(prompt: str | tuple[Message, ...], chosen: str = "Gladly.", rejected: str = "Certainly not.") -> Pair:
    return Pair(prompt, chosen, rejected)


@cache
def real_tokenizer(folder: Path) -> Any:
    """Load a published tokenizer once for all tests."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@cache
def byte_tokenizer(bos: str | None, eos: str, *others: str, adds_bos: bool = False) -> Any:
    """Make a tokenizer of 256 bytes and the special tokens named."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([token for token in (bos, eos, *others) if token])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos)


def pinned_base(folder: Path, source: Path) -> Path:
    """Write what the base stage writes for a local model folder."""
    files = {
        path.name: {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in sorted(source.iterdir())
        if path.is_file()
    }
    about = {"stage": "base", "kind": "local", "source": str(source), "revision": None, "model_files": files}
    with atomic_folder(folder, {**about, "digest": digest_of(files)}) as draft:
        write_text(draft / "metrics.json", "{}\n")
    return folder


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def metrics_of(folder: Path) -> Any:
    return read_json(folder / "metrics.json")


def json_lines(rows: Iterable[Any]) -> bytes:
    """Return rows as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class OneDatasetHub(BaseHTTPRequestHandler):
    """Serves data sets of one file the way the hub does, at one commit.

    Attributes:
        files: The content of each data set's `train.jsonl`.
        cut: Data sets of which the connection ends in the middle of each answer.
        asked: How often each file was asked for.
    """

    commit = "a" * 40
    files: ClassVar[dict[str, bytes]] = {"name": json_lines(text_rows(20))}
    cut: ClassVar[frozenset[str]] = frozenset()
    asked: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: Any) -> None:
        """Keep requests out of the test's output."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        name = next((part for part in path.split("/") if part in self.files), "")
        rows = self.files.get(name, b"")
        etag = hashlib.sha1(rows).hexdigest()
        if path.startswith(f"/api/datasets/org/{name}/tree/"):
            self._send(200, [{"type": "file", "path": "train.jsonl", "size": len(rows), "oid": etag}])
        elif path.startswith(f"/api/datasets/org/{name}") and name:
            self._send(200, {"id": f"org/{name}", "sha": self.commit, "siblings": [{"rfilename": "train.jsonl"}]})
        elif path.endswith("/train.jsonl"):
            self.asked[name] += self.command == "GET"
            self._send_range(rows, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}, is_cut=name in self.cut)
        else:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _send_range(self, rows: bytes, headers: dict[str, str], is_cut: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first, last = (int(asked[1]), int(asked[2] or len(rows) - 1)) if asked else (0, len(rows) - 1)
        part = rows[first : last + 1]
        if asked:
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(rows)}"
        if is_cut and self.command == "GET":
            self._send(206 if asked else 200, part[: len(part) // 2], {**headers, "Content-Length": str(len(part))})
            self.close_connection = True
        else:
            self._send(206 if asked else 200, part, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
