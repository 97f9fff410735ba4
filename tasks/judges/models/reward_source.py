"""Where a reward model comes from: a folder, or a pinned commit of the hub; checked before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import digest_of, sha256_file
from tasks.judges.models.model_choices import RewardModelJudge
from tasks.pinning.hub_snapshot import download
from tasks.pinning.model_folder import model_files

SECTION = "winrate.judge"


def reward_folder(choice: RewardModelJudge) -> Path:
    """Return the folder of a reward model, which is fetched from the hub where it is not one here.

    Raises:
        ConfigError: There is no such folder or model; a revision is missing, can move, or has no use.
        DataError: The folder lacks a file, or the model is no reward model.
        NetworkError: The hub does not answer.
    """
    folder = Path(choice.source)
    if folder.is_dir():
        if choice.revision is not None:
            raise ConfigError(f"`{SECTION}.revision` is {choice.revision!r}, and the source is a folder", "write null")
        check_reward_settings(folder)
        return folder
    if choice.source.startswith((".", "/", "~")) or choice.source.count("/") != 1:
        advice = "correct the path (~ is not expanded), or name a hub model as ORG/NAME"
        raise ConfigError(f"`{SECTION}.source` is {choice.source!r}, and there is no such folder", advice)
    return download(choice.source, choice.revision, SECTION, check_reward_settings)


def check_reward_settings(folder: Path) -> None:
    """Refuse a model that does not give one score to a conversation; code that came with it never runs.

    Raises:
        DataError: The config or the tokenizer does not load, has not one label, or has no chat template.
    """
    config = _loaded(folder, "AutoConfig")
    if config.num_labels != 1:
        what = f"{folder / 'config.json'} has {config.num_labels} labels, and a reward model has one (`num_labels: 1`)"
        raise DataError(what, f"name a reward model in `{SECTION}.source`; a classifier of several labels is none")
    if not load_reward_tokenizer(folder).chat_template:
        what = f"the tokenizer in {folder} has no chat template, so it is not known how the model reads a conversation"
        raise DataError(what, "save the template that it was trained with beside it, as chat_template.jinja")


def load_reward_tokenizer(folder: Path) -> Any:
    """Return the reward model's own tokenizer.

    Raises:
        DataError: It does not load.
    """
    return _loaded(folder, "AutoTokenizer")


def _loaded(folder: Path, name: str) -> Any:
    import transformers

    try:
        return getattr(transformers, name).from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001  # the library raises many kinds, some of them its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        advice = f"name a reward model in `{SECTION}.source` that transformers has without code of its own"
        raise DataError(f"the reward model in {folder} does not load: {reason}", advice) from None


def reward_digest(choice: RewardModelJudge, folder: Path) -> str:
    """Return what identifies the model: the pinned commit, or for a folder a hash of the files that make up the model.

    Raises:
        DataError: A file is missing or is not the model's.
    """
    if choice.revision is not None:
        return digest_of([choice.source, choice.revision])
    return digest_of({name: sha256_file(folder / name) for name in model_files(folder)})
