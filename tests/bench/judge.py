"""Verdicts a second and memory of a language model as judge, against an endpoint on loopback that answers at once.

    python -m tests.bench.judge 5000          # the number of items; 100000 shows that memory stays flat

The endpoint is a process of its own. `verdicts/s a core` divides by the processor time of the judging process alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.judges.games.pool import opinions
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.llm_judge import LlmJudge
from tasks.judges.protocol.protocol import Answer, Item, Prompt, Turn

TOP = [{"token": label, "logprob": value, "bytes": None} for label, value in (("A", -0.1), ("B", -2.5), (" A", -4.0))]
CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "message": {"role": "assistant", "content": "A"},
    "logprobs": {"content": [{**TOP[0], "top_logprobs": TOP}]},
}
COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "instant",
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
}
BODY = json.dumps(COMPLETION).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
WORDS = "the kettle leaks from below and I would like to know what to do about it before supper " * 3


class Instant(asyncio.Protocol):
    """Answers each request with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def items(count: int) -> Iterator[Item]:
    for number in range(count):
        prompt = Prompt((Turn("user", f"{number}: {WORDS}"),))
        yield Item(str(number), prompt, Answer(f"first {number} {WORDS}"), Answer(f"second {number} {WORDS}"))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    count = int(sys.argv[1])
    logging.disable(logging.INFO)
    endpoint = subprocess.Popen([sys.executable, "-m", "tests.bench.judge", "serve"], stdout=subprocess.PIPE, text=True)
    assert endpoint.stdout is not None
    url = f"http://127.0.0.1:{int(endpoint.stdout.readline())}/v1"
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("asked", "from the cache"):
                judge = LlmJudge(OpenAIJudge("openai", "instant", url, cache=f"{folder}/answers.sqlite"))
                judge.fingerprint  # noqa: B018  # the probe
                began, used, memory = time.perf_counter(), time.process_time(), []
                for number, _ in enumerate(opinions(judge, items(count)), 1):
                    if number % (count // 10) == 0:
                        memory.append(round(resident_mb()))
                wall, used = time.perf_counter() - began, time.process_time() - used
                print(f"{name}: {count / wall:.0f} verdicts/s, {count / used:.0f} a core; MB at each tenth: {memory}")
    finally:
        endpoint.kill()


if __name__ == "__main__":
    asyncio.run(serve()) if sys.argv[1] == "serve" else main()
