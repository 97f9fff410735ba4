"""What the field's linters and schemas say: nothing."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.infra import tools
from tests.infra.files import ACTIONS, INFRA, WORKFLOWS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first one installs the tools
SCRIPTS = [INFRA / "checkout.sh", INFRA / "entrypoint.sh", INFRA / "pin-images", ROOT / ".ci" / "run"]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    tools.run("hadolint", INFRA / "Dockerfile")


def test_the_compose_file_holds_to_the_specification() -> None:
    tools.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")


def test_workflows_and_actions_hold_to_githubs_schemas() -> None:
    tools.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    tools.run("check-jsonschema", "--builtin-schema", "vendor.github-actions", *ACTIONS)


def test_actionlint_finds_nothing_in_the_workflows_and_their_scripts() -> None:
    tools.run("actionlint", "-shellcheck", tools.installed() / "shellcheck", *WORKFLOWS)


def test_zizmor_finds_no_hole_in_the_workflows() -> None:
    tools.run("zizmor", "--offline", "--no-progress", "--quiet", ROOT / ".github")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    tools.run("shellcheck", *SCRIPTS)


def test_yamllint_finds_nothing_in_the_yaml() -> None:
    tools.run("yamllint", "--strict", "-c", ROOT / "tests" / "infra" / "yamllint.yaml", INFRA, ROOT / ".github")
