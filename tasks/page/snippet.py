"""The code that loads the adapter, shown on the page and on the card."""

from __future__ import annotations

from pathlib import PurePath

from tasks.core.base_model import BaseModel

_TEMPLATE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{more}

{before}base = AutoModelForCausalLM.from_pretrained({base}{options})
tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(base, "models/adapter")  # or where you pulled the version to
"""
# as tasks/dpo/model/quantization.py loads it
_FOUR_BITS = """\
four_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="{kind}",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype="bfloat16",
)
"""


def loading_snippet(base: BaseModel) -> str:
    """Return the code that loads base, tokenizer and adapter; the path of a local folder is left to the reader."""
    before = name = ""
    if base.kind == "hub":
        name = f"{base.source!r}, revision={base.revision!r}".replace("'", '"')
    elif base.kind == "demo":
        name = '"data/base"'
    else:
        folder = PurePath(base.source).name
        before, name = f"# the folder {folder!r} whose files have the digest {base.digest}\n", '"path/to/base"'
    if base.quantise == "none":
        return before + _TEMPLATE.format(base=name, more="", before="", options="")
    return before + _TEMPLATE.format(
        base=name,
        more=", BitsAndBytesConfig",
        before=_FOUR_BITS.format(kind=base.quantise),
        options=", quantization_config=four_bits",
    )
