"""Runs git in a checkout. No stage's output depends on what it prints."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from tasks.core.errors import ConfigError


def git(folder: Path, *words: str, timeout_s: float | None = None) -> str:
    """Run git in ``folder`` and return what it printed, without white space around it.

    Raises:
        ConfigError: git fails, with its last line; or there is no git, no such folder, or no answer in time.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", "name a checkout that is there")
    command, shown = ["git", *words], f"`git {' '.join(words[:2])}` in {folder}"
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # asks no terminal for a password
    asked = functools.partial(subprocess.run, command, cwd=folder, env=env, stdin=subprocess.DEVNULL, timeout=timeout_s)
    try:
        done = asked(capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"git does not run: {error}", "install it") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{shown} takes longer than {timeout_s:g} s", "see what git waits for there") from None

    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ConfigError(f"{shown} failed: {last[0]}", "see what git says there")
    return done.stdout.strip()


def git_or_none(folder: Path, *words: str, timeout_s: float = 60.0) -> str | None:
    """Run git as :func:`git` does; None where it fails."""
    try:
        return git(folder, *words, timeout_s=timeout_s)
    except ConfigError:
        return None
