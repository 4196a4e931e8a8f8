"""`--fix`: each mend is shown, agreed to and made, until there is none left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

from rns_ble.cli import reticulum_config
from rns_ble.cli.doctor.finding import Command, Edit, Finding
from rns_ble.cli.running import as_user, user_name

Examine = Callable[[], Sequence[Finding]]
Agree = Callable[[], bool]
Say = Callable[[str], None]


def mend_all(
    examine: Examine, agree: Agree, say: Say, explicit: str | None
) -> tuple[Sequence[Finding], list[str]]:
    """Mend what can be mended, and examine again, since one change may bring up the next.

    Nothing is tried twice. Returns the last findings, and what was done. `explicit`: the configuration
    directory, where one was named.
    """
    tried: set[str] = set()
    done: list[str] = []
    findings = examine()
    while mends := _untried(findings, tried):
        before = len(done)
        for mend in mends:
            tried.add(str(mend))
            say(str(mend))
            if isinstance(mend, Edit):
                say(mend.diff())
            if (user := mend.whose) is not None:
                directory = str(reticulum_config.find_directory(explicit))
                again = as_user(user, "doctor", "--fix", "--config", directory)
                command = mend if isinstance(mend, Command) else again
                say(f"This is for {user_name(user)} to do: {command}\n")
            elif agree() and _make(mend, say):
                done.append(str(mend))
        if len(done) > before:
            findings = examine()
    return findings, done


def _untried(findings: Iterable[Finding], tried: set[str]) -> list[Edit | Command]:
    """Of several changes to a file the first one: the others were made for the file as it is now."""
    found: dict[object, Edit | Command] = {}
    for finding in findings:
        mend = finding.mend
        if isinstance(mend, Edit | Command) and str(mend) not in tried:
            found.setdefault(mend.path if isinstance(mend, Edit) else mend, mend)
    return list(found.values())


def _make(mend: Edit | Command, say: Say) -> bool:
    """Do it; whether that has worked."""
    try:
        if isinstance(mend, Edit):
            _write(mend, say)
        else:
            subprocess.run(mend.argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    except subprocess.CalledProcessError as error:
        say(f"That has failed, with exit code {error.returncode}.\n")
        return False
    except OSError as error:
        say(f"That has failed: {error}\n")
        return False
    return True


def _write(edit: Edit, say: Say) -> None:
    edit.path.parent.mkdir(parents=True, exist_ok=True)
    if edit.path.exists():
        say(f"kept   {reticulum_config.back_up(edit.path)}")
    reticulum_config.replace_file(edit.path, edit.after)
    say(f"wrote  {edit.path}\n")
