"""How to load the adapter, as code that the page and the card both show."""

from __future__ import annotations

from tasks.page.facts import BaseFacts

_TEMPLATE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(base, "models/adapter")  # or where you pulled the version to
"""


def loading_snippet(base: BaseFacts) -> str:
    """Return the lines that load base, tokenizer and adapter; a local folder's path is left to the reader."""
    if base.kind == "hub":
        return _TEMPLATE.format(base=f"{base.name!r}, revision={base.revision!r}".replace("'", '"'))
    if base.kind == "demo":
        return _TEMPLATE.format(base='"data/base"')
    return f"# the folder {base.name!r} whose files have the digest {base.digest}\n" + _TEMPLATE.format(
        base='"path/to/base"'
    )
