"""infra/README.md is true to the files."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.infra.files import INFRA

README = (INFRA / "README.md").read_text(encoding="utf-8")
BY_OTHERS = {"infra/.env"}  # filled in by a user


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"\b((?:infra|flows|tests)/[\w./-]*\w)", README))
    named |= {
        f"infra/{name}" for name in re.findall(r"`((?:pools|kubernetes|terraform|ci|multi-node)/[\w./-]*)`", README)
    }
    assert len(named) > 10
    existing = {name for name in named if (ROOT / name).exists() or (INFRA / "kubernetes" / name[6:]).exists()}
    assert named - existing <= BY_OTHERS


def test_links_within_the_page_lead_to_headings() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", README, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= headings


def test_every_pool_is_named_with_the_type_of_its_worker() -> None:
    types = dict(re.findall(r"work-pool create (\w+) --type (\w+) --base-job-template infra/pools/\1\.json", README))
    assert types == {"containers": "docker", "cluster": "kubernetes", "ecs": "ecs"}
    assert {path.stem for path in (INFRA / "pools").glob("*.json")} == set(types)


def test_every_output_of_terraform_that_is_named_is_one() -> None:
    outputs = set(re.findall(r'^output "(\w+)"', (INFRA / "terraform" / "outputs.tf").read_text(), re.MULTILINE))
    texts = [README, *(path.read_text() for path in sorted((INFRA / "pools").glob("*.json")))]
    texts += [path.read_text() for path in sorted((INFRA / "kubernetes").glob("*.yaml"))]
    named = {hit for text in texts for hit in re.findall(r"Terraform's output `?(\w+)", text)}
    assert named
    assert named <= outputs
