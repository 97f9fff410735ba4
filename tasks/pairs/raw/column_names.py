"""What the name of a column, or of a key, says of it: may it be a part of the prompt, or say which answer is better?

A name is read word by word: `chatHistory` and `chat_history2` are `chat` and `history`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_MOST_NAMES = 1000  # that are remembered
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

# patterns of single words; digits behind a word are left out
SYSTEM = r"sys|system|developer|persona|character|preamble"
TOOLS, HISTORY = r"tools?|functions?", r"history|dialog(?:ue)?"
MEDIA = r"images?|audios?|videos?|screenshots?|pictures?|attachments?"
TEMPLATE = r"templates?"
THOUGHTS = r"thinking|reasoning|thoughts?|cot|scratchpad|prefill"
SCORES = r"scores?|ratings?|rank(s|ing)?"
FLAGS = r"swap(ped)?|flip(ped)?|reversed|inverted"
_TEXTS = (
    r"instructions?|inputs?|contexts?|documents?|passages?|paragraphs?|articles?|knowledge|background|scenario|premise"
    r"|evidence|facts|retrieved|search|options|stor(?:y|ies)|tables?|schema|examples|demonstrations|shots?|memory|profile"
    r"|hints?"
)
_WHOLE = r"posts?|body|request|files?|chat|code"  # these alone: `post_url` is about something else
# Of a column, but not of a message, whose `name` or `text` can be anything.
_OF_COLUMNS = (
    r"contents?|texts?|titles?|descriptions?|body|prompts?|constraints?|requirements?|guidelines?|rules|excerpts?"
    r"|snippets?|chunks?|abstract|transcripts?|exemplars?|fewshots?|demos?|preface|choices|problem|statement|claim"
    r"|utterances?|previous|prior|preceding|earlier"
)
_WHOLE_OF_COLUMNS = r"((assistant|response|reply|answer) )?(prefix|suffix)"
# These hold a category as often as a part of the prompt: `task: math` is one, `task: Sum it up in a line.` is not.
_CATEGORIES = r"tasks?|subject|safety|styles?|tone|audience|formats?|goal|objective|intent"
_WHOLE_CATEGORIES = (
    r"user|human|role|message|situation|scene|thread|turns?|e?mail|letter|caption|ocr|subtitles|lyrics|csv|html|webpage"
    r"|ddl|stem|outline|bio|glossary|constitution|principles?|keywords|plan|notes?|summary"
    r"|quotes?|citations|(user|parent|past) (messages?|turns?|text|info)"
)
_LABELS = (
    rf"winner|winning|prefer(ence|red)|labels?|better|best|choice|selected|votes?|verdict|{SCORES}"
    rf"|gold|target|truth|correct|judge?ments?|decision|outcome|annotat(ors?|ions?)|which|{FLAGS}"
)
# These contradict even columns that are called chosen and rejected.
_VERDICTS = (
    rf"winner|winning|prefer(ence|red)|better|verdict|decision|outcome|vote|judge?ments?|annotations?|which|{FLAGS}"
)
# So do these where they name a side.
_SIDED = r"labels?|choice|selected"
SIDES = {*"ab012", "-1", "true", "false", "chosen", "rejected", "first", "second", "left", "right"}

# the better answer by its place or its id, or by its model: `better_idx`, `chosen_index`, `winner_model`
_PLACE = re.compile(r"(winner|winning|preferred|better|best|selected|chosen) (idx|index|number|num|side|position)")
_ID = re.compile(r"(winner|winning|preferred|better|best)( \w+)? ids?")
_MODEL = re.compile(r"(winner|winning|preferred|better|best|selected) (model|name)")
_CHOSEN_BY = re.compile(r"(chosen|picked|selected|preferred) by")

# a name with one of these is about the column's subject, or about one reply: `input_tokens`, `rating_chosen`
_ABOUT = (
    r"ids?|idx|index|uuid|hash|sha|md|fingerprint|tokens?|length|len|count|num|number|size|source|dataset|origin"
    r"|models?|type|kind|names?|lang|language|version|date|time|timestamp|created|categor(y|ies)|topic|quality"
    r"|difficulty|reward|configs?|settings?|params|chosen|rejected|raw"
)
# of texts, and not of pictures: `article_url`; or about how replies were made and judged: `generation_prompt`
_ABOUT_TEXT = (
    rf"{_ABOUT}|meta(data)?|stats|features|ur[li]s?|links?|href|path|licen[cs]e|level|status|costs?|preview|embeddings?|vectors?|probability|logprobs?|{SCORES}"
    r"|generation|label{1,2}ing|judg(e|ing)|grad(er?|ing)|eval(uation)?|annotation|critique|scoring|comparison"
)
_PROMPT_WORDS = "|".join((SYSTEM, TOOLS, HISTORY, MEDIA, _TEXTS, THOUGHTS))


@lru_cache(_MOST_NAMES)  # keys of objects are looked at in each row
def shapes_prompt(name: str) -> bool:
    """Tell whether a key of this name, of a message or an answer, may be part of the prompt."""
    return is_about(name, _PROMPT_WORDS) or bool(re.fullmatch(_WHOLE, name.lower()))


def column_shapes_prompt(name: str) -> bool:
    """Tell whether a column of this name may be part of the prompt, whatever text it holds."""
    is_text = is_about(name, f"{_PROMPT_WORDS}|{_OF_COLUMNS}|{TEMPLATE}", _ABOUT_TEXT)
    is_whole = bool(re.fullmatch(f"{_WHOLE}|{_WHOLE_OF_COLUMNS}", spaced(name)))
    return is_text or is_whole or is_about(name, MEDIA)


def may_be_category(name: str) -> bool:
    """Tell whether a column of this name is a part of the prompt where it holds several words."""
    return is_about(name, _CATEGORIES, _ABOUT_TEXT) or bool(re.fullmatch(_WHOLE_CATEGORIES, spaced(name)))


def shapes_label(name: str) -> bool:
    """Tell whether a column of this name may say which of two answers is better, whose order is an assumption."""
    return any(form.search(spaced(name)) for form in (_PLACE, _ID, _MODEL)) or is_about(name, _LABELS)


def contradicts_label(name: str) -> bool:
    """Tell whether a column of this name may say that the rejected answer is the better one."""
    is_verdict = is_about(name, _VERDICTS, f"{_ABOUT}|{SCORES}|total|cancelled|agent|strength|agreement")
    return is_verdict or bool(_ID.search(spaced(name))) or says_by_whom(name)


def says_by_whom(name: str) -> bool:
    """Tell whether a column of this name says who chose, as `chosen_by`."""
    return bool(_CHOSEN_BY.search(spaced(name)))


def may_name_side(name: str) -> bool:
    """Tell whether a column of this name does so where it holds one of :data:`SIDES`."""
    return is_about(name, _SIDED)


def is_about(name: str, subjects: str, about: str = _ABOUT) -> bool:
    """Tell whether a word of a name matches a pattern, and no word says that the name is about something else.

    Args:
        name: A column's.
        subjects: A pattern of single words.
        about: A pattern of the words that say so.
    """
    words = spaced(name).removeprefix("source ").removeprefix("topic ").split()  # `source_text` is a text
    return any(re.fullmatch(subjects, word) for word in words) and not any(re.fullmatch(about, word) for word in words)


def spaced(name: str) -> str:
    """Return the words of a name in lower case, a space between them; digits behind a word are left out."""
    return " ".join(part.lower().rstrip("0123456789") for part in _PARTS.findall(name))
