"""Answers from an OpenAI-compatible server that holds the base and the adapters, such as vLLM.

Prompts are sent as token ids, so they are those of training. Before anything is answered, log-probabilities of some
prompts show that the server applies the adapter: servers that cannot load one may answer with the base in its name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Annotated, Any

from tasks.core.errors import ConfigError, NetworkError
from tasks.core.section import Rule, at_least, filled
from tasks.dpo.generation.answering import Part
from tasks.dpo.generation.batchwise import completion
from tasks.dpo.generation.questions import CHAMPION, Completion, Finish, Questions, Request, Side
from tasks.dpo.generation.stop_texts import StopTexts

ATTEMPTS = 6
SECONDS_TO_ANSWER = 600
MOST_STOPS = 4  # that the interface takes; all are cut off here
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 60.0  # seconds between two attempts
_KEY = "respond.server"


def _is_address(text: str) -> bool:
    """Return whether a text is an address of HTTP; a user's name and password in it would stand in messages."""
    return re.fullmatch(r"https?://[^\s@]+", text) is not None


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """A server to answer in place of this machine.

    Attributes:
        base_url: Where its interface begins, such as `http://localhost:8000/v1`.
        base: Its name of the bare base.
        policy: Its name of the base with the trained adapter.
        champion: Its name of the base with the champion's adapter; None where none answers.
        key_env: The environment variable that holds its key; None where it asks for none.
        connections: Requests that are open at once.
    """

    base_url: Annotated[str, Rule(_is_address, "write an address without a key, such as http://localhost:8000/v1")]
    base: Annotated[str, filled("write the server's name of the bare base")]
    policy: Annotated[str, filled("write the server's name of the base with the trained adapter")]
    champion: str | None = None
    key_env: str | None = None
    connections: Annotated[int, at_least(1)] = 16


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the key along."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""
        return


class Server:
    """Asks the server; safe to use from many threads.

    Args:
        config: Where it is, and what its models are called.
        questions: What is asked.
        tokenizer: Turns tokens into text, and texts into tokens where the server does not give them.

    Raises:
        ConfigError: Its key is not in the environment, or the champion answers and has no name.
    """

    def __init__(self, config: ServerConfig, questions: Questions, tokenizer: Any) -> None:
        names: dict[str, str | None] = {"policy": config.policy, CHAMPION: config.champion}
        self._names = {side: names.get(side, config.base) for side in questions.sides}
        if None in self._names.values():
            raise ConfigError(f"`{_KEY}.champion` is not set", "write the server's name of the champion's adapter")
        self._key = os.environ.get(config.key_env, "") if config.key_env else ""
        if config.key_env and not self._key:
            raise ConfigError(
                f"`{_KEY}.key_env` is {config.key_env}, which is not set", "export the server's key there"
            )
        self._config = config
        self._questions = questions
        self._tokenizer = tokenizer
        self._stops = StopTexts(tokenizer, questions.stop)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def answers_of(self, part: Part) -> list[Completion]:
        """Return the answers of one side, in the order of its requests.

        Raises:
            ConfigError: The server refuses a request, or answers as another model or to another prompt.
            NetworkError: It does not answer.
        """
        pool = ThreadPoolExecutor(self._config.connections)
        try:
            return list(pool.map(self._answer, part.requests, itertools.repeat(part.side)))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is asked

    def max_abs_delta_logp(self, prompts: Sequence[Sequence[int]]) -> float:
        """Return the largest |Δlog-probability| of any prompt's token between the policy and the bare base.

        Raises:
            ConfigError: It, or the champion's, is no larger than between two requests to the base: the server does not
                apply the adapter. Or the server gives no log-probabilities of prompts.
        """
        base = self._config.base
        logps = [self._prompt_logps(base, prompt) for prompt in prompts]
        noise = self._largest_delta(base, prompts, logps)
        deltas = {}
        for side in ("policy", CHAMPION):
            if side not in self._names:
                continue
            name = str(self._names[side])
            deltas[side] = self._largest_delta(name, prompts, logps)
            if deltas[side] <= 2 * noise:
                raise ConfigError(
                    f"the server's model {name} gives the log-probabilities of {base} (they differ by "
                    f"{deltas[side]:.3g}, those of the base by {noise:.3g} from one request to the next): it does not "
                    "apply the adapter",
                    f"load the adapter into the server, and name it in `{_KEY}.{side}`",
                )
        return deltas["policy"]

    def _largest_delta(self, model: str, prompts: Sequence[Sequence[int]], logps: Sequence[Sequence[float]]) -> float:
        """Return by how much the model's log-probabilities of any prompt's token differ from ``logps`` at most."""
        given = [self._prompt_logps(model, prompt) for prompt in prompts]
        pairs = zip(itertools.chain(*given), itertools.chain(*logps), strict=True)
        return max((abs(one - other) for one, other in pairs), default=0.0)

    def _answer(self, request: Request, side: Side) -> Completion:
        sampling, stop = self._questions.sampling, self._questions.stop
        key = hashlib.sha256(f"{sampling.seed}/{side}/{request.prompt_id}/{request.sample}".encode()).digest()
        choice = self._complete(
            str(self._names[side]),
            request.ids,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int.from_bytes(key[:4], "little") >> 1,
            stop_token_ids=list(sampling.eos_token_ids),
            return_token_ids=True,
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            **({"repetition_penalty": sampling.repetition_penalty} if sampling.repetition_penalty != 1.0 else {}),
            **({"stop": list(stop[:MOST_STOPS])} if stop else {}),
        )
        if choice.get("finish_reason") not in ("stop", "length"):
            what = f"the server ended an answer for the reason {choice.get('finish_reason')!r:.40}"
            raise NetworkError(what, "look into its log, then run again: finished parts are kept")

        ids = choice.get("token_ids")
        if ids and (answer := completion(request, side, ids, sampling, self._stops)):
            return answer
        text: str = choice.get("text") or ""
        places = [place for each in stop if (place := text.find(each)) >= 0]
        text = text[: min(places)] if places else text
        counted = self._tokenizer(text, add_special_tokens=False)["input_ids"] if ids is None or places else ids
        finish: Finish = "length" if choice["finish_reason"] == "length" and not places else "stop"
        return Completion(request.prompt_id, side, request.sample, tuple(counted), finish, text)

    def _prompt_logps(self, model: str, ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of a prompt but the first."""
        choice = self._complete(model, ids, max_tokens=1, temperature=0, echo=True, logprobs=1)
        values = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(values) < len(ids):  # a server with vLLM's own key
            entries = self._complete(model, ids, max_tokens=1, temperature=0, prompt_logprobs=1).get("prompt_logprobs")
            given = zip(ids, entries or [], strict=False)
            values = [entry and (entry.get(str(token)) or {}).get("logprob") for token, entry in given]
        logps = [float(value) for value in values[1 : len(ids)] if value is not None]
        if len(logps) != len(ids) - 1:
            what = f"the server gives no log-probabilities of a prompt's tokens for {model}"
            raise ConfigError(
                f"{what}, so nothing shows that it applies the adapter", "use one that does, such as vLLM"
            )
        return logps

    def _complete(self, model: str, ids: Sequence[int], **more: Any) -> dict[str, Any]:
        """Return the one choice of a completion, after checking that it is of this model and prompt."""
        reply = self._post({"model": model, "prompt": list(ids), "n": 1, **more})
        choices, count = reply.get("choices"), (reply.get("usage") or {}).get("prompt_tokens", len(ids))
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict) or count != len(ids):
            replied = "with one answer" if isinstance(choice, dict) else "otherwise than with one answer"
            what = f"the server read a prompt of {len(ids)} tokens as {count} tokens, and replied {replied}"
            raise ConfigError(what, "use a server that takes token ids as the prompt, such as vLLM")
        if reply.get("model", model) != model:
            what = f"the server answered as {reply['model']!r:.80}, and was asked for {model!r}"
            raise ConfigError(what, f"correct the names under `{_KEY}`")
        return choice

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request, again where the fault may pass, and return the JSON object of the reply."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        url = f"{self._config.base_url.rstrip('/')}/completions"
        fault = ""
        for attempt in range(ATTEMPTS):
            wait = min(0.5 * 2**attempt, _LONGEST_WAIT)
            try:
                request = urllib.request.Request(url, json.dumps(body).encode(), headers)
                with self._opener.open(request, timeout=SECONDS_TO_ANSWER) as reply:
                    if isinstance(value := json.load(reply), dict):
                        return value
                    fault = "its reply is no JSON object"
            except urllib.error.HTTPError as error:
                fault = self._shown(f"{error.code} {error.read(2000).decode('utf-8', 'replace')}")
                if error.code not in _PASSING:
                    what = f"{url} refused a request for {body['model']}: {fault}"
                    raise ConfigError(what, f"correct `{_KEY}`, or the server's settings") from None
                after = error.headers.get("Retry-After", "")
                wait = min(float(after), _LONGEST_WAIT) if after.isdecimal() else wait
            except (OSError, HTTPException, ValueError) as error:  # a refused or torn connection, or no JSON
                fault = self._shown(str(error) or type(error).__name__)
            if attempt + 1 < ATTEMPTS:
                time.sleep(wait)
        what = f"{url} did not answer in {ATTEMPTS} attempts: {fault}"
        raise NetworkError(what, "start the server, then run again: finished parts are kept")

    def _shown(self, text: str) -> str:
        """Return the beginning of what the server said, without the key."""
        return (text.replace(self._key, "***") if self._key else text)[:300]
