"""What an edit runs again, by dvc.yaml: a table, held true. tests/e2e/test_demo.py asks DVC itself."""

from __future__ import annotations

import pytest

from tests.rules import closure
from tests.rules.edits import EDITS, Edit, direct, downstream
from tests.rules.source import ROOT, modules

DOCUMENT = closure.load()


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.file)
def test_an_edit_runs_again_what_it_can_change_and_no_more(edit: Edit) -> None:
    assert (ROOT / edit.file).is_file()
    assert direct(DOCUMENT, edit.file) == edit.direct
    assert downstream(DOCUMENT, edit.direct) == edit.then


def test_no_stage_on_a_gpu_depends_on_the_registry() -> None:
    for path in modules("tasks/registry"):
        stages = direct(DOCUMENT, path.relative_to(ROOT).as_posix())
        assert not {stage for stage in stages if "meta" in DOCUMENT["stages"][stage]}, path


def test_an_observer_is_in_no_stage_s_dependencies() -> None:
    for room in closure.OBSERVERS:
        for path in modules(room):
            assert direct(DOCUMENT, path.relative_to(ROOT).as_posix()) == (), path
