"""The script that keeps a clone on a volume up to date, between runs, with git itself."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

from flows import retrain
from flows.git_work import workspaces
from tests.flows.conftest import git, wait_for
from tests.infra.files import INFRA

SCRIPT = INFRA / "checkout.sh"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with a commit."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("/runs\n/data\n")
    commit(folder, "dvc.lock", "of the commit\n")
    return folder


def commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", f"{name} anew")


def checkout(repository: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [str(SCRIPT), str(repository), "main", str(folder)]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), **variables}
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)


def test_a_clone_is_brought_up_to_date_and_keeps_what_git_ignores(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "volume" / "clone"
    done = checkout(origin, clone)
    assert done.returncode == 0, done.stderr
    (clone / "runs" / "checkpoint").write_text("step 70")
    (clone / "dvc.lock").write_text("of a run\n")
    commit(origin, "dvc.lock", "of a newer commit\n")
    commit(origin, "code.py", "pass\n")
    done = checkout(origin, clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("code.py anew\n")
    assert (clone / "dvc.lock").read_text() == "of a newer commit\n"
    assert (clone / "runs" / "checkpoint").read_text() == "step 70"
    git(clone, "diff", "--exit-code")


def test_history_that_was_written_anew_is_followed(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    commit(origin, "code.py", "wrong\n")
    checkout(origin, clone)
    git(origin, "reset", "-q", "--hard", "HEAD~1")
    commit(origin, "code.py", "right\n")
    assert checkout(origin, clone).returncode == 0
    assert (clone / "code.py").read_text() == "right\n"


@pytest.mark.parametrize("lock", [workspaces.LOCK, retrain.LOCK], ids=str)
def test_a_run_that_works_there_is_waited_for(origin: Path, tmp_path: Path, lock: Path) -> None:
    clone = tmp_path / "clone"
    checkout(origin, clone)
    commit(origin, "code.py", "pass\n")
    with (clone / lock).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = tmp_path / "said"
        with said.open("w") as log:
            waiting = subprocess.Popen([SCRIPT, origin, "main", clone], stdout=log, stderr=log)
        wait_for(said.read_text, "a word of the script", 30)
        assert said.read_text() == f"checkout: waiting for a run that works in {clone}\n"
        assert not (clone / "code.py").exists()
    assert waiting.wait(timeout=30) == 0
    assert (clone / "code.py").exists()


def test_two_at_once_make_one_clone(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    both = [subprocess.Popen([SCRIPT, origin, "main", clone], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    wait_for((clone / "dvc.lock").exists, "the clone", 5)
    assert not Path(f"{clone}.new").exists()


def test_what_one_that_was_stopped_left_is_in_nobodys_way(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    Path(f"{clone}.new").mkdir()
    assert checkout(origin, clone).returncode == 0


def test_where_git_refuses_the_clone_stays(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    checkout(origin, clone)
    done = checkout(tmp_path / "elsewhere", clone)
    assert done.returncode != 0
    assert "elsewhere" in done.stderr
    assert (clone / "dvc.lock").exists()
    assert checkout(origin, clone).returncode == 0


def test_a_token_is_kept_from_other_users_and_out_of_the_address(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    checkout(origin, clone)
    done = checkout("https://localhost:1/team/dpo.git", clone, GIT_TOKEN="s3cret")
    assert done.returncode != 0
    assert "s3cret" not in done.stdout + done.stderr + (clone / ".git" / "config").read_text()
    kept = Path(f"{clone}.credentials")
    assert kept.stat().st_mode & 0o777 == 0o600
    asked = subprocess.run(
        ["git", "credential", "fill"],
        cwd=clone,
        input="protocol=https\nhost=localhost:1\n\n",
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "GIT_TERMINAL_PROMPT": "0"},
        check=True,
    )
    assert "password=s3cret" in asked.stdout


def test_wrong_words_are_told_what_is_asked_for() -> None:
    done = subprocess.run([SCRIPT, "one"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: checkout REPOSITORY BRANCH FOLDER\n")
