"""From the tokens of three texts to one row: where the reply begins, where it ends, what is cut.

The three are the prompt alone (up to where the reply would begin), the prompt with the chosen reply and
the prompt with the rejected one, each tokenised as a whole. Pure functions on int32 arrays.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from tasks.pairs.tokens.token_cache import Ids, TokenRow


@dataclasses.dataclass(frozen=True)
class TokenRules:
    """What the tokenizer, the template and the params ask of every row.

    Attributes:
        eos_ids: All ids at which generation stops; the first one ends a branch that the template leaves open.
        bos_id: Begins a text; None when the tokenizer has none.
        adds_bos: Whether a text that does not begin with ``bos_id`` gets it.
        turn_ends: How many of ``eos_ids`` the template writes behind a reply.
        max_prompt: The most prompt tokens of a row.
        max_completion: The most tokens of a reply, its end included.
        is_cut: Cut what is longer; else drop the pair.
    """

    eos_ids: tuple[int, ...]
    bos_id: int | None
    adds_bos: bool
    turn_ends: int
    max_prompt: int
    max_completion: int
    is_cut: bool


class PairDropped(Exception):
    """A pair that cannot be trained on, with a reason code and what exactly is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True, eq=False)
class Assembled:
    """A row ready for the cache, and what had to be done to it.

    Attributes:
        row: The tokens.
        cut: Which of prompt, chosen and rejected were cut.
        is_shifted: The boundary lies before the prompt's end, because tokens merge across it.
    """

    row: TokenRow
    cut: tuple[bool, bool, bool]
    is_shifted: bool


def assemble(prompt: Ids, chosen: Ids, rejected: Ids, rules: TokenRules) -> Assembled:
    """Build the row of one pair.

    The boundary is the longest common token prefix of all three, so the prompt's tokens are the same in
    both branches and a token that spans prompt and reply belongs to the replies.

    Args:
        prompt: The prompt alone, beginning as :func:`with_bos` leaves it; so the other two.
        chosen: Prompt and chosen reply.
        rejected: Prompt and rejected reply.
        rules: See there.

    Raises:
        PairDropped: The row would give no signal or a wrong one.
    """
    boundary = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
    if boundary == 0:
        raise PairDropped("no_prompt_token", "no token stands before the replies; the first would have no prediction")

    stops = len(eos_positions(prompt, rules))
    first = _close("chosen", chosen, boundary, stops, rules)
    second = _close("rejected", rejected, boundary, stops, rules)
    if not rules.is_cut:
        _check_lengths(boundary, first, second, rules)

    before = cut_prompt(prompt[:boundary], rules)
    row = TokenRow(before, first[: rules.max_completion], second[: rules.max_completion])
    if np.array_equal(row.chosen, row.rejected):
        raise PairDropped("identical_completions", f"both replies are the same {len(row.chosen)} tokens")
    cut = (len(before) < boundary, len(row.chosen) < len(first), len(row.rejected) < len(second))
    return Assembled(row, cut, boundary < len(prompt))


def common_prefix(first: Ids, second: Ids) -> int:
    """Return how many tokens two arrays share at their beginning."""
    shorter = min(len(first), len(second))
    is_different = first[:shorter] != second[:shorter]
    place = int(is_different.argmax()) if shorter else 0
    return place if shorter and is_different[place] else shorter


def with_bos(ids: Ids, rules: TokenRules) -> Ids:
    """Return ``ids`` beginning with exactly one BOS where the rules ask for one, and never with two."""
    if rules.bos_id is None:
        return ids
    leading = 0
    while leading < len(ids) and ids[leading] == rules.bos_id:
        leading += 1
    if leading == 0 and rules.adds_bos:
        return np.concatenate([np.array([rules.bos_id], dtype=np.int32), ids])
    return ids[max(leading - 1, 0) :]


def cut_prompt(ids: Ids, rules: TokenRules) -> Ids:
    """Return the last ``max_prompt`` tokens of a prompt; a BOS keeps its place in front of them."""
    if len(ids) <= rules.max_prompt:
        return ids
    # a BOS that comes again inside the prompt opens turns: then it does not mark the beginning of the text
    if ids[0] == rules.bos_id and np.count_nonzero(ids == rules.bos_id) == 1:
        return np.concatenate([ids[:1], ids[len(ids) - rules.max_prompt + 1 :]])
    return ids[len(ids) - rules.max_prompt :]


def eos_positions(ids: Ids, rules: TokenRules) -> npt.NDArray[np.intp]:
    """Return where ids that stop generation stand."""
    is_stop = ids == rules.eos_ids[0]
    for stop in rules.eos_ids[1:]:
        is_stop |= ids == stop
    positions: npt.NDArray[np.intp] = is_stop.nonzero()[0]
    return positions


def _close(name: str, branch: Ids, boundary: int, stops_before: int, rules: TokenRules) -> Ids:
    """Return a branch's tokens from the boundary to exactly one EOS, its last.

    What a template writes behind the turn's end (ChatML's line feed) goes; a branch that the template
    leaves open gets the first of ``eos_ids``.
    """
    stops = eos_positions(branch, rules)
    extra = len(stops) - stops_before
    if rules.turn_ends == 0 and extra == 1 and stops[-1] == len(branch) - 1:  # the reply ends itself
        return branch[boundary:]
    if extra != rules.turn_ends:
        count = f"{name} has {extra} tokens that stop generation behind the prompt"
        raise PairDropped("eos_in_reply", f"{count}, where the template writes {rules.turn_ends}")
    if extra > 0:
        return branch[boundary : int(stops[-extra]) + 1]
    return np.concatenate([branch[boundary:], np.array(rules.eos_ids[:1], dtype=np.int32)])


def _check_lengths(prompt: int, chosen: Ids, rejected: Ids, rules: TokenRules) -> None:
    if prompt > rules.max_prompt:
        raise PairDropped("prompt_too_long", f"{prompt} tokens, at most {rules.max_prompt} are allowed")
    longest = max(len(chosen), len(rejected))
    if longest > rules.max_completion:
        raise PairDropped("completion_too_long", f"{longest} tokens, at most {rules.max_completion} are allowed")
