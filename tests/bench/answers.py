"""Speed of answers: ours against a loop over transformers' `generate`, sorted by length, at several batch sizes.

Prints tokens a second of CPU time on one thread, the best of two runs each, taken in turns so that a busy machine
slows all alike; and a step's time of top-p over a large vocabulary, by a full sort and by ours.
run as: python -m tests.bench.answers [MODEL_FOLDER]     (default: stories260K beside the checkout)
"""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList, TopPLogitsWarper

from tasks.dpo.generation.batchwise import left_padded
from tasks.dpo.generation.next_token import draw
from tasks.dpo.generation.questions import Request, Sampling, plan_batches
from tasks.dpo.generation.refilling import answer_all
from tests.conftest import SHARED

NEW_TOKENS = 128
PLAIN = (32, 64, 128)
BUDGETS = (12_288, 24_576)
ROUNDS = 2
VOCABULARY, ROWS = 151_936, 64


class Bare:
    """A model without adapters, in the place of a PEFT model."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        self.parameters = model.parameters

    def get_base_model(self) -> Any:
        return self.model


def prompts(tokenizer: Any) -> list[list[int]]:
    """Beginnings of 300 stories, of 5 to 55 words."""
    with gzip.open(SHARED / "corpora/tinystories-1000/stories.jsonl.gz", "rt") as stream:
        stories = [next(iter(json.loads(line).values())) for line in itertools.islice(stream, 300)]
    return [tokenizer(" ".join(story.split()[: 5 + i % 51]))["input_ids"] for i, story in enumerate(stories)]


def plain(model: Any, texts: list[list[int]], ends: list[int], size: int, temperature: float) -> int:
    """Answer in batches of ``size``, longest first; return the number of tokens before each end."""
    more = {"temperature": temperature, "top_p": 0.95, "top_k": 0} if temperature else {}
    config = GenerationConfig(
        do_sample=bool(temperature), max_new_tokens=NEW_TOKENS, eos_token_id=ends, pad_token_id=ends[0], **more
    )
    model.generation_config, count = config, 0
    ordered = sorted(texts, key=len, reverse=True)
    for first in range(0, len(ordered), size):
        ids, mask = left_padded(ordered[first : first + size], ends[0], model.device)
        with torch.inference_mode():
            rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
        count += sum(next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows.tolist())
    return count


def ours(model: Any, texts: list[list[int]], ends: list[int], budget: int, temperature: float) -> int:
    """Answer with seats refilled; return the number of tokens before each end."""
    requests = [Request(str(i), 0, tuple(text)) for i, text in enumerate(texts)]
    ordered = [each for batch in plan_batches(requests, NEW_TOKENS, budget) for each in batch]
    sampling = Sampling(temperature, 0.95, NEW_TOKENS, tuple(ends), 0)
    return sum(len(each.ids) for each in answer_all(Bare(model), ordered, sampling, "policy", budget))


def rate(run: Callable[[], int]) -> float:
    began = time.process_time()
    return run() / (time.process_time() - began)


def compare(model: Any, texts: list[list[int]], ends: list[int], temperature: float) -> None:
    runs: dict[str, Callable[[], int]] = {
        **{f"generate, {n} rows": lambda n=n: plain(model, texts, ends, n, temperature) for n in PLAIN},
        **{f"ours, {n} tokens": lambda n=n: ours(model, texts, ends, n, temperature) for n in BUDGETS},
    }
    best = dict.fromkeys(runs, 0.0)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            best[name] = max(best[name], rate(run))
    for name, value in best.items():
        print(f"{name:>22}: {value:8.0f} tokens/s, {value / best['generate, 32 rows']:.2f}x of 32 rows")
    plain_best = max(value for name, value in best.items() if name.startswith("generate"))
    print(f"{'best of ours':>22}: {max(best[f'ours, {n} tokens'] for n in BUDGETS) / plain_best:.2f}x of the best loop")


def compare_top_p(deviation: float) -> None:
    scores = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)) * deviation
    uniforms = torch.rand(ROWS, dtype=torch.float64)

    def sorted_whole() -> None:
        kept = LogitsProcessorList([TopPLogitsWarper(0.95)])(torch.empty(ROWS, 0), scores)
        cumulative = torch.softmax(kept.double(), -1).cumsum(-1)
        torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)

    for name, step in (("full sort", sorted_whole), ("ours", lambda: draw(scores, None, 0.95, uniforms))):
        step()
        seconds = min(_seconds(step) for _ in range(3))
        print(f"top-p of {ROWS} x {VOCABULARY}, logits' deviation {deviation:g}, {name}: {1000 * seconds:.0f} ms")


def _seconds(step: Callable[[], Any]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if sys.argv[1:] else SHARED / "models/stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts, end = prompts(tokenizer), tokenizer.eos_token_id
    stop = tokenizer(".", add_special_tokens=False)["input_ids"][-1]
    for deviation in (1.0, 4.0, 12.0):
        compare_top_p(deviation)
    for ends, about in (([end, stop], "a sentence each"), ([end], "almost all reach the limit")):
        for temperature in (0.7, 0.0):
            print(f"300 answers, {about}, temperature {temperature:g}:")
            compare(model, texts, ends, temperature)


if __name__ == "__main__":
    main()
