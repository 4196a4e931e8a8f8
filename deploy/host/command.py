"""Programs that a host runs: each with a deadline, none through a pipe that a daemon could hold open."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass


class Problem(Exception):
    """It can't go on. The message is one line for a person."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """What it said last."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def run(command: Sequence[str], *, limit: float, user: pwd.struct_passwd | None = None) -> Ended:
    """Run it, as this user or as ourselves, for so many seconds at most. Raises `Problem` when that is over.

    What it prints goes to files: a daemon that it starts may keep them open without holding us up.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    identity: dict[str, object] = {}
    if user is not None:
        environment |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd="/",
                env=environment,
                start_new_session=True,
                **identity,  # type: ignore[call-overload]
            )
        except OSError as error:
            raise Problem(f"can't run {command[0]}: {error.strerror}") from error
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Problem(f"{os.path.basename(command[0])} has not ended within {limit:g} s") from None
        output.seek(0)
        errors.seek(0)
        return Ended(code, output.read().decode(errors="replace"), errors.read().decode(errors="replace"))


def check(command: Sequence[str], what: str, *, limit: float, user: pwd.struct_passwd | None = None) -> str:
    """Run it, and return what it printed. Raises `Problem` when it fails; `what` says what it was for."""
    ended = run(command, limit=limit, user=user)
    if ended.code != 0:
        raise Problem(f"{what}: {ended.reason}")
    return ended.output
