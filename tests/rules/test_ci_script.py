"""The script that CI runs: what it says is only said."""

from __future__ import annotations

import subprocess

from tests.rules.source import ROOT


def test_no_message_of_the_script_runs_a_command() -> None:
    for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines():
        if line.startswith("step "):
            said = subprocess.run(
                ["bash", "-c", f'PATH=/nowhere; step() {{ printf %s "$1"; }}; {line}'],
                capture_output=True,
                text=True,
                check=False,
            )
            assert said.stderr == "", line
