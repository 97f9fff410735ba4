"""What is measured on: random models of a known shape and random pairs of a known length profile.

Nothing is downloaded. A model's weights are a function of each parameter's name and the seed, so that
processes with other versions of transformers build the same model. Runs in the peers' environment too:
it needs torch, transformers and numpy only.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

SIGMA = 0.6  # of the logarithm of every length
LONGEST = 2048  # tokens of a prompt or of a completion
FIRST_WORD = 3  # ids below stand for padding, begin and end
WEIGHT_SCALE = 0.02


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's shape: the numbers that its cost depends on.

    Attributes:
        family: `llama` or `qwen2`.
        hidden: Hidden size H.
        layers: Transformer layers.
        heads: Query heads.
        key_heads: Key and value heads.
        inner: The feed-forward's inner size.
        vocabulary: V.
        is_tied: Whether the head is the embeddings' matrix.
        dtype: Of the frozen weights, where a processor computes in it fast.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    is_tied: bool = False
    dtype: str = "bfloat16"

    @property
    def body_matmul_parameters(self) -> int:
        """N_b: entries of the body's linear layers; neither embeddings nor head nor adapters."""
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.key_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    def pair_flops(self, prompt: float, chosen: float, rejected: float) -> float:
        """Return 4·N_b·(P+C+R) + 4·V·H·(C+R): what one pair needs at least, attention left out.

        Forward and the activations' backward, two operations a parameter and token each; every prompt
        once, a frozen head, reference log-probabilities at hand.
        """
        completions = chosen + rejected
        head = 4.0 * self.vocabulary * self.hidden * completions
        return 4.0 * self.body_matmul_parameters * (prompt + completions) + head


SHAPES = {
    "tiny": Shape("llama", 64, 2, 4, 4, 176, 512, dtype="float32"),
    "llama-512x6": Shape("llama", 512, 6, 8, 8, 1376, 32000, dtype="float32"),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, is_tied=True),
    "qwen2.5-3b": Shape("qwen2", 2048, 36, 16, 2, 11008, 151936, is_tied=True),
    "llama-3.1-8b": Shape("llama", 4096, 32, 32, 8, 14336, 128256),
}


def build(name: str, device: str, dtype: str | None = None, seed: int = 0) -> Any:
    """Return a frozen random model of a shape, in evaluation mode.

    Args:
        name: A key of ``SHAPES``.
        device: `cpu` or `cuda`.
        dtype: Instead of the shape's own; on a CPU the default is float32.
        seed: Of the weights.
    """
    shape = SHAPES[name]
    dtype = dtype or ("float32" if device == "cpu" else shape.dtype)
    config_of = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.family]
    config = config_of(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2 * LONGEST,
        tie_word_embeddings=shape.is_tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    _fill(model, device, seed)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _fill(model: Any, device: str, seed: int) -> None:
    """Write weights that depend on the parameter's name, shape and the seed alone."""
    generator = torch.Generator(device)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        generator.manual_seed(zlib.crc32(name.encode()) + seed)
        numbers = torch.randn(parameter.shape, generator=generator, device=device)
        parameter.copy_(numbers.mul_(WEIGHT_SCALE))


@dataclasses.dataclass(frozen=True)
class Profile:
    """Median lengths of log-normal prompts, chosen and rejected completions, in tokens."""

    prompt: int
    chosen: int
    rejected: int


PROFILES = {
    "hh": Profile(120, 60, 60),
    "math": Profile(380, 35, 33),
    "ultra": Profile(180, 300, 260),
    "tiny": Profile(12, 6, 6),
}

Lengths = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Random pairs: int32 ids, [prompt | chosen | rejected] row after row, and lengths, int32 [n, 3]."""

    ids: npt.NDArray[np.int32]
    lengths: Lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self) -> list[list[list[int]]]:
        """Return each pair's three lists of ids."""
        parts = np.split(self.ids, np.cumsum(self.lengths.reshape(-1))[:-1])
        return [[part.tolist() for part in parts[3 * i : 3 * i + 3]] for i in range(len(self))]

    def subset(self, order: npt.NDArray[np.int64]) -> Pairs:
        """Return the named rows, in that order."""
        rows = self.rows()
        flat = [np.asarray(part, np.int32) for row in order for part in rows[row]]
        return Pairs(np.concatenate(flat), self.lengths[order])


def draw(profile: str, count: int, vocabulary: int, seed: int = 0) -> Pairs:
    """Draw ``count`` random pairs of a length profile; the same for the same seed.

    Chosen completions take their tokens from the lower half of the vocabulary and rejected ones from the
    upper half: something to learn, so that a curve that falls can be compared.
    """
    numbers = np.random.default_rng(seed)
    medians = np.array(dataclasses.astuple(PROFILES[profile]), dtype=np.float64)
    spread = numbers.normal(0.0, SIGMA, (count, 3))
    lengths = np.clip(np.rint(medians * np.exp(spread)), 1, LONGEST).astype(np.int32)
    half = (FIRST_WORD + vocabulary) // 2
    lowest = np.repeat(np.tile([FIRST_WORD, FIRST_WORD, half], count), lengths.reshape(-1))
    highest = np.repeat(np.tile([vocabulary, half, vocabulary], count), lengths.reshape(-1))
    return Pairs(numbers.integers(lowest, highest).astype(np.int32), lengths)
