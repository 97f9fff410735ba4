"""The judge `reward_endpoint`: a reward model at a server that speaks vLLM's pooling API.

One call a conversation, `POST {base_url}/pooling` with the messages and the task `classify`; the server renders them by
the model's own template and gives the score without an activation. Calls that may pass later are made again.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tasks.core.errors import ConfigError, NetworkError
from tasks.core.files import canonical_json, digest_of
from tasks.judges.models.model_choices import ModelPlace, RewardEndpointJudge
from tasks.judges.models.row_cache import Floats, recall
from tasks.judges.protocol.protocol import Response, Score

VERSION = "reward endpoint/1"
DIGITS = 4
ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5  # doubled with each attempt, and shortened by chance; a server's Retry-After counts instead
_LONGEST_PAUSE_S = 60.0
_PASSING = (408, 409, 425, 429)
_TOO_LONG = ("maximum context length", "max_model_len", "context length", "too long", "maximum model length")
_ADVICE = {
    401: "set the environment variable that `winrate.judge.key` names to a key of this server",
    403: "use a key that may use this model",
    404: "correct `winrate.judge.model` or `base_url`, and serve the model with `vllm serve MODEL --runner pooling`",
}
_OTHER_ADVICE = "serve a reward model of one label with `vllm serve MODEL --runner pooling`, or correct `winrate.judge`"


class RewardEndpointScorer:
    """Scores an answer by a reward model at a server. Scores are kept as the server gave them.

    A conversation that the server finds too long is invalid; a server that does not answer ends the run, and what it
    answered before is kept in the row store.

    Args:
        choice: Its settings.
        place: How this machine is used.

    Raises:
        ConfigError: The variable with the key is not set.
    """

    is_soft = True

    def __init__(self, choice: RewardEndpointJudge, place: ModelPlace) -> None:
        self._choice, self._place = choice, place
        self._url = f"{choice.base_url.rstrip('/')}/pooling"
        self._key = os.environ.get(choice.key, "").strip() if choice.key else ""
        self.dead_band = choice.dead_band
        if choice.key and not self._key:
            raise ConfigError(
                f"the environment variable `{choice.key}`, which `winrate.judge.key` names, is not set",
                "set it to the server's key where the stage runs",
            )

    @property
    def fingerprint(self) -> str:
        """A digest of server, model, the version of the scoring, and the dead band."""
        return digest_of([VERSION, self._url, self._choice.model, self.dead_band])

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Return the score of each answer.

        Raises:
            ConfigError: The server refuses the calls.
            NetworkError: It does not answer, or with a fault, each time.
        """
        bodies = [self._body(response) for response in responses]
        keys = [bytes.fromhex(digest_of([VERSION, self._url, body])) for body in bodies]

        def ask(places: list[int]) -> list[Floats]:
            with ThreadPoolExecutor(self._choice.at_once) as pool:
                return list(pool.map(lambda place: self._ask(bodies[place]), places))

        rows = recall(self._place.rows("scores"), keys, ask, "scoring answers")
        values = [round(float(row[0]), DIGITS) for row in rows]
        reason = {"reason": "the server finds the conversation too long"}
        return [Score(None, reason, "invalid") if math.isnan(value) else Score(value) for value in values]

    def _body(self, response: Response) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.text} for turn in response.prompt.turns]
        messages = [*turns, {"role": "assistant", "content": response.answer.text.strip()}]
        return {"model": self._choice.model, "messages": messages, "task": "classify", "use_activation": False}

    def _ask(self, body: dict[str, Any]) -> Floats:
        """Return a conversation's score, NaN for one that is too long: float32 [1]."""
        request = urllib.request.Request(self._url, canonical_json(body).encode(), self._headers())
        fault, pause = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1)

            try:
                with urllib.request.urlopen(request, timeout=self._choice.timeout_s) as answer:
                    return np.array([self._score_of(json.load(answer))], np.float32)
            except urllib.error.HTTPError as error:
                fault = self._plain(f"{error.code} {error.read(2000).decode('utf-8', 'replace')}")
                if error.code in (400, 413, 422) and any(sign in fault.lower() for sign in _TOO_LONG):
                    return np.array([math.nan], np.float32)
                if error.code not in _PASSING and error.code < 500:
                    what = f"{self._url} refuses the judge's call: {fault}"
                    raise ConfigError(what, _ADVICE.get(error.code, _OTHER_ADVICE)) from None
                pause = _retry_after(error.headers.get("Retry-After"), pause)
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                fault = self._plain(f"{type(error).__name__}: {error}")

        what = f"{self._url} fails after {ATTEMPTS} attempts: {fault}"
        raise NetworkError(what, "start the server or wait, and run again: scores that it gave are kept")

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", **key}

    def _plain(self, text: str) -> str:
        """Return a server's text in one line, without the key should the server repeat it."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:300]

    def _score_of(self, answer: Any) -> float:
        """Return the one number of an answer; of a list for each token, that of the last.

        Raises:
            ConfigError: There is another number of them.
        """
        try:
            data = answer["data"][0]["data"]
            while isinstance(data, list) and data and isinstance(data[-1], list):
                data = data[-1]
            (score,) = data if isinstance(data, list) else [data]
            if not math.isfinite(value := float(score)):
                raise ValueError("it is not finite")
            return value
        except (KeyError, IndexError, TypeError, ValueError):
            shown = self._plain(canonical_json(answer))
            what = f"{self._url} gives no single score, as a reward model does: {shown}"
            raise ConfigError(what, _OTHER_ADVICE) from None


def _retry_after(header: str | None, usual: float) -> float:
    try:
        return min(_LONGEST_PAUSE_S, max(0.0, float(header or "")))
    except ValueError:
        return usual
