"""Known schemas of one answer a row: thumbs, and scores of runs and traces."""

from __future__ import annotations

from tasks.pairs.forms.open_webui import OpenWebUI
from tasks.pairs.forms.singles import Conversations, Singles
from tasks.pairs.forms.votes import meanings_of

FEEDBACK: tuple[Singles, ...] = (
    Singles(
        name="kto",
        about="completion with the thumb in label; opposite thumbs on one prompt are a pair",
        needs=("prompt", "completion", "label"),
        text="completion",
        value="label",
    ),
    *(
        Conversations(
            name=f"kto-{turns}",
            about=f"the last turn of {turns} with the thumb in {label}; opposite thumbs on one prompt are a pair",
            needs=(turns, label),
            text=turns,
            value=label,
        )
        for turns, label in (
            ("messages", "label"),
            ("messages", "kto_tag"),
            ("conversations", "label"),
            ("conversations", "kto_tag"),
        )
    ),
    Singles(
        name="kto-output",
        about="output with the thumb in kto_tag; opposite thumbs on one prompt are a pair",
        needs=("instruction", "output", "kto_tag"),
        text="output",
        value="kto_tag",
    ),
    OpenWebUI(
        name="open-webui",
        about="thumbs on messages; a rated answer and its arena siblings, or opposite thumbs on one prompt, are a pair",
        needs=("data.rating", "meta.message_id", "snapshot.chat"),
        value="data.rating",
        values=meanings_of({"up": (1,), "down": (-1,)}),
    ),
    Singles(
        name="langsmith",
        about="outputs of runs with the score of users in feedback_stats; opposite ones on one prompt are a pair",
        needs=("id", "run_type", "inputs", "outputs"),
        paths={
            "prompt": ("inputs.messages", "inputs.input", "inputs.question", "inputs.query", "inputs.prompt"),
            "history": ("inputs.chat_history", "inputs.history"),
            "tools": "inputs.tools",
            "documents": "inputs.documents",
            "system": ("inputs.system", "inputs.system_prompt"),
        },
        text=("outputs.choices.0.message", "outputs.output", "outputs.answer", "outputs.content", "outputs.text"),
        value="feedback_stats",
        key="id",
    ),
    Singles(
        name="langsmith-feedback",
        about="scores of runs, joined by run_id",
        needs=("run_id", "key", "score"),
        value="score",
        key="run_id",
    ),
    Singles(
        name="langfuse",
        about="output of traces with the score of users in scores; opposite ones on one prompt are a pair",
        needs=("id", "input", "output", "scores"),
        paths={"prompt": ("input.messages", "input"), "tools": "input.tools"},
        text="output",
        value="scores",
        key="id",
    ),
    Singles(
        name="langfuse-traces",
        about="output of traces, joined with scores by id",
        needs=("id", "input", "output", "timestamp"),
        paths={"prompt": ("input.messages", "input"), "tools": "input.tools"},
        text="output",
        key="id",
    ),
    *(
        Singles(
            name=f"langfuse-scores-{key}",
            about=f"scores of traces, joined by {key}",
            needs=(key, "name", "value"),
            value="value",
            key=key,
        )
        for key in ("traceId", "trace_id")
    ),
    Singles(
        name="helpsteer2",
        about="responses of one prompt by helpfulness",
        needs=("prompt", "response", "helpfulness", "verbosity"),
        text="response",
        value="helpfulness",
        measure="score",
    ),
)
