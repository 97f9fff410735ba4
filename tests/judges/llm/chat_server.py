"""A server on loopback that speaks OpenAI's chat and batch API, judges honestly, and misbehaves where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
_SHOWN = re.compile(r"<<<(\w+) answer ([AB])>>>\n(.*?)\n<<<\1 end>>>", re.DOTALL)


def better(first: str, second: str, word: str) -> str:
    """The label of the answer that says a word more often."""
    counts = first.count(word), second.count(word)
    return "tie" if counts[0] == counts[1] else "A" if counts[0] > counts[1] else "B"


class ChatServer:
    """What the server is told, and what it counts.

    Attributes:
        plan: The fault of each call by its number, from 0, and its body; None for none.
        forms: The forms of verdicts that it can give.
        key: The key that it asks for; None for none.
        model: The name by which it answers; None for the one that is asked for.
        likes: What makes an answer better.
        obeys: A text that, standing in an answer, makes that answer win: a judge that can be fooled.
        change: What stands in place of parts of an answer, by the call's number.
        on_call: Called with each call's number before it is answered.
        longer: Tokens of each reply beyond its text.
        tokens: All that were counted for calls that were answered in full.
        paid: Calls that were answered in full, by their body without the seed.
    """

    def __init__(self) -> None:
        self.plan: Callable[[int, Json], str | None] = lambda number, body: None
        self.forms: set[str] = {"label", "json", "line"}
        self.key: str | None = None
        self.model: str | None = None
        self.likes = "good"
        self.obeys: str | None = None
        self.delay_s = 0.0
        self.change: Callable[[int], Json] = lambda number: {}
        self.longer = self.tokens = 0
        self.on_call: Callable[[int], None] = lambda number: None
        self.calls = 0
        self.at_once = self.most_at_once = 0
        self.paid: Counter[str] = Counter()
        self.bodies: list[Json] = []
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.polls_until_done = 1
        self.on_poll: Callable[[int], None] = lambda polls: None
        self.has_batches = True
        self.loses_batch_answers = self.refuses_batches = self.breaks_lines = 0

    # --- one call of the chat API

    async def chat(self, body: Json, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes | None]:
        number, self.calls = self.calls, self.calls + 1
        self.bodies.append(body)
        self.on_call(number)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {headers.get('authorization')}")
        fault = self.plan(number, body) or ""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fault.startswith("429"):
            after = fault.removeprefix("429").strip()
            if after == "insufficient_quota":
                return _error(429, after)
            date = email.utils.formatdate(time.time() + 1, usegmt=True) if after == "date" else after
            return _error(429, "slow down", {"retry-after": date} if date else {})
        if failed := _failed(fault, f"you sent {headers.get('authorization')}"):
            return failed
        if fault == "slow":
            await asyncio.sleep(3600)
        if fault == "cut connection":
            return 200, {}, None
        if fault == "garbage":
            return 200, {}, b"<html>oh no</html>"
        if fault == "empty object":
            return 200, {}, b"{}"
        return self.completed(body, fault, headers)

    def completed(self, body: Json, fault: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        form = "label" if body.get("logprobs") else "json" if "response_format" in body else "line"
        if form not in self.forms and form != "line":
            return _error(400, f"{form} is not supported")
        prompt = body["messages"][-1]["content"]
        answers = {label: text for _, label, text in _SHOWN.findall(prompt)}
        label = better(answers["A"], answers["B"], self.likes)
        if self.obeys:
            label = next((name for name, text in answers.items() if self.obeys in text), label)

        choice: Json = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        text = {
            "label": label if label != "tie" else "A",
            "json": json.dumps({"reason": "it is better", "better": label}),
            "line": f"It is better.\nVerdict: {label}",
        }[form]
        if form == "label":
            p = {"A": 0.9, "B": 0.1, "tie": 0.5}[label]
            top = [{"token": "A", "logprob": math.log(p)}, {"token": "B", "logprob": math.log(1 - p)}]
            top.sort(key=lambda one: -one["logprob"])
            text = top[0]["token"]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        if fault == "refusal":
            choice["message"]["refusal"], text = "I cannot compare these.", ""
        if fault == "prose":
            text = "Well, both have their merits."
            choice.pop("logprobs", None)
        if fault == "cut off":
            choice["finish_reason"], text = "content_filter", text[:5]
        choice["message"]["content"] = text
        if fault == "echo":
            choice["message"]["refusal"] = f"Is {headers['authorization']} your key?"
        size = sum(len(message["content"]) for message in body["messages"])
        usage = {"prompt_tokens": size // 4, "completion_tokens": len(text) // 4 + 1 + self.longer}
        self.tokens += sum(usage.values())
        model = "another-model" if fault == "wrong model" else self.model or body["model"]
        self.paid[json.dumps({**body, "seed": 0})] += 1
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
        return 200, {}, json.dumps({**answer, "usage": usage, **self.change(self.calls - 1)}).encode()

    # --- the batch API

    def batch_api(self, method: str, path: str, data: bytes, kind: str) -> tuple[int, dict[str, str], bytes]:
        if not self.has_batches:
            return _error(404, f"no {path} here")
        if method == "POST" and path == "/v1/files":
            boundary = kind.partition("boundary=")[2].encode()
            parts = [part for part in data.split(b"--" + boundary) if b'name="file"' in part]
            name = f"file-{len(self.files)}"
            self.files[name] = parts[0].partition(b"\r\n\r\n")[2].strip()
            return _json(
                {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
            )
        if method == "GET" and path.endswith("/content"):
            return 200, {}, self.files[path.split("/")[3]]
        if method == "POST" and path == "/v1/batches":
            if self.refuses_batches:
                self.refuses_batches -= 1
                return _error(503, "not now")
            about = json.loads(data)
            batch = {"id": f"batch-{len(self.batches)}", "object": "batch", "status": "validating", "polls": 0, **about}
            self.batches[batch["id"]] = batch
            if self.loses_batch_answers:
                self.loses_batch_answers -= 1
                return _error(502, "lost")
            return _json(batch)
        if method == "GET" and path.startswith("/v1/batches?"):
            return _json({"object": "list", "data": list(self.batches.values()), "has_more": False})
        batch = self.batches[path.split("/")[3]]
        batch["polls"] += 1
        self.on_poll(batch["polls"])
        if batch["polls"] >= self.polls_until_done and batch["status"] != "completed":
            self.run_batch(batch)
        return _json(batch)

    def run_batch(self, batch: Json) -> None:
        lines = []
        for line in self.files[batch["input_file_id"]].splitlines():
            entry = json.loads(line)
            number, self.calls = self.calls, self.calls + 1
            fault = self.plan(number, entry["body"]) or ""
            status, _, body = _failed(fault) or self.completed(entry["body"], fault, {})
            response = {"status_code": status, "body": json.loads(body)}
            lines.append(json.dumps({"custom_id": entry["custom_id"], "response": response, "error": None}))
        name = f"out-{batch['id']}"
        for number in range(self.breaks_lines):
            lines[number] = lines[number][: 20 * number]
        self.breaks_lines = 0
        self.files[name] = "\n".join(lines).encode()
        batch |= {"status": "completed", "output_file_id": name}

    # --- HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                method, path, _ = first.split()
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if path == "/v1/chat/completions":
                        status, more, answer = await self.chat(json.loads(data), headers)
                    elif path.startswith(("/v1/files", "/v1/batches")):
                        status, more, answer = self.batch_api(method, path, data, headers.get("content-type", ""))
                    else:
                        status, more, answer = _error(404, f"no {path} here")
                finally:
                    self.at_once -= 1
                if answer is None:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
                    return
                more = {"content-type": "application/json", "content-length": str(len(answer)), **more}
                told = "".join(f"{name}: {value}\r\n" for name, value in more.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{told}\r\n".encode() + answer)
                await writer.drain()


def _failed(fault: str, more: str = "") -> tuple[int, dict[str, str], bytes] | None:
    if fault == "400 too long":
        return _error(400, "This model's maximum context length is 64 tokens.")
    return _error(int(fault), f"planned {fault}; {more}") if fault.isdigit() else None


def _json(value: Json) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(value).encode()


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    return status, headers or {}, json.dumps({"error": {"message": message, "code": None}}).encode()


@contextlib.contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Serve in a thread until the block ends."""
    server, loop = ChatServer(), asyncio.new_event_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.serve(reader, writer)
        finally:
            tasks.discard(task)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**20)

    async def end() -> None:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    sockets = loop.run_until_complete(start())
    server.url = f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        sockets.close()
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
