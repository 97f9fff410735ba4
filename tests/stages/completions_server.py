"""An OpenAI-compatible server of completions on loopback, which computes with a tiny model and misbehaves on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tasks.dpo.generation.batchwise import generate_batch
from tasks.dpo.generation.questions import Request, Sampling
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.generation.stop_texts import StopTexts


@dataclasses.dataclass
class Manners:
    """How the server behaves, and what it was asked.

    Attributes:
        adapters: The model names that get the adapter; all others get the bare base.
        faults: Statuses with which the next requests are refused.
        key: What it asks for as a bearer token.
        gives: What it is able to give: token_ids, echo, prompt_logprobs.
        name: What it calls itself, whatever was asked; None for the name asked for.
        tokens_read: How many tokens it says that it read; None for the truth.
        bodies: What it was asked.
        finish: How its answers end; None for the truth.
        broken: A reply in place of the right one.
        noise: Grows the log-probabilities of each request a little more.
    """

    adapters: tuple[str, ...] = ("tuned",)
    faults: list[int] = dataclasses.field(default_factory=list)
    key: str = ""
    gives: tuple[str, ...] = ("token_ids", "echo")
    name: str | None = None
    tokens_read: int | None = None
    finish: str | None = None
    bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    noise: float = 0.0
    broken: Any = None


class Model:
    """A PEFT model behind the server's names."""

    def __init__(self, policy: Any, tokenizer: Any, manners: Manners) -> None:
        self.policy, self.tokenizer, self.manners = policy, tokenizer, manners
        self.lock = threading.Lock()

    def reply(self, body: dict[str, Any]) -> Any:
        manners = self.manners
        side = "policy" if body["model"] in manners.adapters else "reference"
        stops = StopTexts(self.tokenizer, body.get("stop", []))
        sampling = Sampling(
            *(body["temperature"], body.get("top_p", 1.0), body["max_tokens"]),
            *(tuple(body.get("stop_token_ids", [2])), body.get("seed", 0), body.get("top_k")),
            body.get("repetition_penalty", 1.0),
        )
        with self.lock:
            answer = generate_batch(self.policy, [Request("p", 0, tuple(body["prompt"]))], sampling, side, stops=stops)[
                0
            ]
            logps = self.logps(body["prompt"], side) if "echo" in body or "prompt_logprobs" in body else []

        text = self.tokenizer.decode(list(answer.ids)) if answer.text is None else answer.text
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": manners.finish or answer.finish}
        if "token_ids" in manners.gives and body.get("return_token_ids"):
            choice["token_ids"] = [*answer.ids, *([2] if answer.finish == "stop" and answer.text is None else [])]
        if body.get("echo") and "echo" in manners.gives:
            choice["logprobs"] = {"token_logprobs": [None, *logps, -1.0]}
        if body.get("prompt_logprobs") and "prompt_logprobs" in manners.gives:
            entries = zip(body["prompt"][1:], logps, strict=True)
            choice["prompt_logprobs"] = [None, *({str(token): {"logprob": logp}} for token, logp in entries)]
        if manners.broken is not None:
            return manners.broken
        count = len(body["prompt"]) if manners.tokens_read is None else manners.tokens_read
        return {"model": manners.name or body["model"], "choices": [choice], "usage": {"prompt_tokens": count}}

    def logps(self, prompt: list[int], side: Any) -> list[float]:
        with torch.inference_mode(), switched_to(self.policy, side):
            logits = self.policy(input_ids=torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
        shift = self.manners.noise * len(self.manners.bodies)
        return [value + shift for value in logits.gather(1, torch.tensor(prompt[1:])[:, None]).squeeze(1).tolist()]


class _Handler(BaseHTTPRequestHandler):
    model: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        manners = self.model.manners
        if manners.key and self.headers.get("Authorization") != f"Bearer {manners.key}":
            return self.send(401, {"error": f"no such key: {self.headers.get('Authorization')}"})
        if manners.faults:
            return self.send(manners.faults.pop(), {"error": "not now"})
        manners.bodies.append(body)
        return self.send(200, self.model.reply(body))

    def send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        if status == 302:
            self.send_header("Location", "http://localhost:1/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve for the length of a block, and yield the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
