"""This checkout, with what is not committed yet, as a repository that can be cloned."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.newcomer.documents import ROOT

NOBODY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "newcomer"), ("EMAIL", "newcomer@localhost"))
}


def publish(repository: Path) -> None:
    """Make a repository at that place, with one commit: every file that .gitignore does not leave out.

    This checkout's own repository, if it has one, is left alone.
    """

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "core.excludesFile=", *arguments],
            check=True,
            cwd=ROOT,
            env={**os.environ, **NOBODY, "GIT_DIR": str(repository), "GIT_WORK_TREE": str(ROOT)},
        )

    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(repository)], check=True)
    git("add", "--all")
    git("commit", "-q", "-m", "The checkout as it is")
