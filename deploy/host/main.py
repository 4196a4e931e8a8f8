"""One deployment on this host, from its order to its result."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from deploy.host import environment
from deploy.host.command import Problem, check
from deploy.host.interface import Interfaces, Shim, ask, wait_for_new
from deploy.host.order import ORDER, Order, Result
from deploy.host.service import Service, find

PATIENCE_BACK: Final = 60.0
"""Seconds, at least, for the old version to come up again: there is nothing else that could be tried."""

Tell = Callable[[str], None]


class Deployment:
    """The way there, and the way back."""

    def __init__(self, order: Order, application: Path, wheel: Path, tell: Tell) -> None:
        self._order = order
        self._application = application
        self._wheel = wheel
        self._tell = tell
        self._service: Service
        self._plan: dict[str, Any]
        self._before: Interfaces | None = None
        self._shim: Shim | None = None

    def run(self) -> Result:
        """All of it. What goes wrong is in the result."""
        try:
            self._service = find(self._order)
            with _alone(self._service.program):
                return self._run_alone()
        except (Problem, OSError) as problem:
            return Result(state="refused", reason=str(problem))

    def _run_alone(self) -> Result:
        what = {"wheel": str(self._wheel), "extras": self._order.extras}
        self._tell(f"asking pip of {self._service.interpreter} what it would change")
        self._plan = self._ask_environment("plan", **what)
        self._before = ask(self._service)
        if self._order.dry_run:
            return self._result("planned", after=self._order.version)
        self._plan = self._ask_environment("keep", plan=self._plan)
        try:
            self._tell(f"installing {self._order.version}; {self._plan['before'] or 'nothing'} was there")
            self._ask_environment("install", **what)
            self._shim = Shim.install(self._service)
            interfaces = self._restart(self._order.version, self._order.wait)
        except Exception as error:  # noqa: BLE001  (a bug of ours must not leave the host halfway, either)
            return self._back(_line(error))
        return self._result("deployed", after=self._order.version, interfaces=sorted(interfaces.online))

    def _back(self, reason: str) -> Result:
        self._tell(f"going back: {reason}")
        after, interfaces = None, []
        try:
            after = self._ask_environment("restore", plan=self._plan)["version"]
            if self._shim is not None:
                self._shim.undo(self._service)
            if self._before is not None and self._before.online:
                interfaces = sorted(self._restart(after, max(self._order.wait, PATIENCE_BACK)).online)
            else:
                # It was not up before, or its version can't tell.
                self._service.restart()
                reason += (
                    "; whether the old version is up was not checked, for it did not say so before either"
                )
        except Exception as error:  # noqa: BLE001  (it has to be told, whatever it is)
            return self._result("failed", reason=f"{reason}; and the way back: {_line(error)}", after=after)
        return self._result("rolled back", reason=reason, after=after, interfaces=interfaces)

    def _restart(self, version: str, wait: float) -> Interfaces:
        """Restart, and wait for the interfaces. Those that were online before have to be so again."""
        self._tell(f"{self._service.what}, and waiting for {version} to be online")
        since = time.monotonic()
        self._service.restart()
        expected = self._before.online if self._before else set()
        return wait_for_new(self._service, wait, since, version, expected)

    def _ask_environment(self, action: str, **order: object) -> Any:
        command = [self._service.interpreter, str(self._application), action, json.dumps(order)]
        # pip has deadlines of its own; that is for what hangs around it.
        limit = 3 * environment.PIP_LIMIT
        printed = check(
            command, f"{action} in {self._service.interpreter}", limit=limit, user=self._service.owner
        )
        return json.loads(printed.splitlines()[-1])

    def _result(self, state: str, **values: Any) -> Result:
        return Result(
            state=state,
            before=self._plan["before"],
            environment=self._service.interpreter,
            packages={
                name: [self._plan["replaced"].get(name), version]
                for name, version in self._plan["after"].items()
            },
            **values,
        )


@contextmanager
def _alone(program: Path) -> Iterator[None]:
    """Hold the lock of that rnsd: its own file's, which needs no place and goes with us. Raises `Problem`."""
    with program.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(f"another deployment to {program} is under way") from None
        yield


def _line(error: Exception) -> str:
    if isinstance(error, Problem):
        return str(error)
    with suppress(OSError):  # as in _tell
        traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _tell(event: str, **values: object) -> None:
    # Nobody may listen any more. That changes nothing here.
    with suppress(OSError):
        print(json.dumps({"event": event, **values}), flush=True)


def main() -> int:
    """The application's: `environment` and its arguments, or a deployment."""
    application = Path(sys.argv[0]).absolute()
    if sys.argv[1:]:
        return environment.main(sys.argv[1:])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o022)
    _tell("started")
    with ZipFile(application) as archive:
        order = Order(**json.loads(archive.read(ORDER)))
        wheel = Path(archive.extract(order.wheel, application.parent))
    if os.geteuid() == 0:
        # For somebody else's environment: its owner has to read what is here.
        application.parent.chmod(0o755)
        application.chmod(0o644)
    result = Deployment(order, application, wheel, lambda what: _tell("step", what=what)).run()
    _tell("result", **asdict(result))
    return 0
