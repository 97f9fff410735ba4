"""The plan: which stages would run and why, without running anything.

run as: python -m flows.plan [--json | --markdown] [--workspace FOLDER]
        exit status: 0 if dvc.lock matches this code, these params and this data, 1 if a stage would run to make it so,
        2 if the project cannot be read
deploy: the entrypoint is `flows.plan.plan`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from flows.dvc_project.forecast import IN_WORDS, Step, forecast
from tasks.core.errors import PipelineError


def rows(steps: tuple[Step, ...]) -> list[dict[str, str]]:
    """Return a table with one row per stage: its name, what would happen, and why."""
    return [{"stage": step.stage, "what": IN_WORDS[step.forecast], "why": step.why} for step in steps]


def summary(steps: tuple[Step, ...]) -> str:
    """Return the plan in one line."""
    stale = [step.stage for step in steps if step.is_stale]
    if not stale:
        asking = [f"; {step.stage}: {step.why}" for step in steps if step.forecast == "ask"]
        return f"nothing would run: dvc.lock matches this code, these params and this data{''.join(asking)}"
    return f"{len(stale)} of {len(steps)} stages would run: {', '.join(stale)}"


def markdown(steps: tuple[Step, ...]) -> str:
    """Return the plan as Markdown, for a comment on a pull request."""
    lines = [f"**{summary(steps)}**", "", "| stage | what | why |", "|---|---|---|"]
    lines += [f"| {' | '.join(text.replace('|', '/') for text in row.values())} |" for row in rows(steps)]
    return "\n".join(lines)


def text(steps: tuple[Step, ...]) -> str:
    """Return the plan as aligned text."""
    table = rows(steps)
    stage, what = (max((len(row[key]) for row in table), default=0) for key in ("stage", "what"))
    lines = [f"{row['stage']:{stage}}  {row['what']:{what}}  {row['why']}".rstrip() for row in table]
    return "\n".join([*lines, summary(steps)])


def main() -> int:
    """Print the plan; the exit status says whether a stage would run."""
    parser = argparse.ArgumentParser(prog="python -m flows.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(), help="the checkout to look at")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a table for a comment")
    arguments = parser.parse_args()

    try:
        steps = forecast(arguments.workspace)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    if arguments.json:
        print(json.dumps([dataclasses.asdict(step) for step in steps], indent=2, ensure_ascii=False))
    else:
        print(markdown(steps) if arguments.markdown else text(steps))
    return int(any(step.is_stale for step in steps))


if __name__ != "__main__":  # the command needs no Prefect, whose import takes longer than a plan
    from prefect import flow, get_run_logger
    from prefect.artifacts import create_table_artifact
    from prefect.client.schemas.objects import State
    from prefect.states import Completed, Failed

    from flows.prefect_ui import run_names

    @flow(name="plan", flow_run_name=run_names.of_run, persist_result=False)
    def plan(workspace: Path = Path()) -> State[Any]:
        """Show which stages a run of the pipeline would run now, and why, without running anything.

        Args:
            workspace: The checkout to look at; the current folder by default.
        """
        try:
            steps = forecast(workspace)
        except PipelineError as error:
            return Failed(message=f"{error.kind}: {error}")
        create_table_artifact(table=rows(steps), key="plan", description=summary(steps))
        get_run_logger().info("\n%s", text(steps))
        return Completed(message=summary(steps))


if __name__ == "__main__":
    sys.exit(main())
