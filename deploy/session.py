"""One SSH session: sends the application to a host, and hears what becomes of it."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from deploy.host.order import Result
from deploy.hosts import Host
from deploy.wheel import last_line

SSH_FAILED: Final = 255
"""ssh's exit code for whatever went wrong with itself; else it has the remote program's."""

OPTIONS: Final = {
    "BatchMode": "yes",  # nobody is there to answer
    "StrictHostKeyChecking": "yes",  # a key that is not known is no host of ours
    "UpdateHostKeys": "no",  # and what is known is not for a host to say
    "ForwardAgent": "no",
    "ConnectTimeout": "20",
    # A connection that is dead is noticed within a minute.
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
}

RECEIVE: Final = (
    'd=$(mktemp -d) && cat >"$d/deploy.pyz" && { %s "$d/deploy.pyz"; s=$?; rm -rf "$d"; exit $s; }'
)
"""For the host's shell: the application goes into a place of its own, and is gone afterwards."""

LINE_LIMIT: Final = 1 << 20
"""Bytes; a result that names all of a host's packages is longer than asyncio's 64 KiB at some time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How hosts are reached, beyond what ssh's own configuration says."""

    configuration: Path | None = None
    known_hosts: Path | None = None
    identity: Path | None = None

    def command(self, host: Host) -> list[str]:
        """The command that takes the application on its stdin."""
        options = dict(OPTIONS)
        if self.known_hosts is not None:
            # This file alone says which keys are right, whatever else the machine knows.
            options |= {"UserKnownHostsFile": _quoted(self.known_hosts), "GlobalKnownHostsFile": "/dev/null"}
        if self.identity is not None:
            options |= {"IdentityFile": _quoted(self.identity), "IdentitiesOnly": "yes"}
        words = ["ssh", "-T", *(["-F", str(self.configuration)] if self.configuration else [])]
        words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        words += ["-p", str(host.port)] if host.port is not None else []
        receive = ["sh", "-c", RECEIVE % shlex.quote(host.python)]
        remote = shlex.join(["sudo", "-n", *receive] if host.sudo else receive)
        return [*words, "--", host.address, remote]


def _quoted(path: Path) -> str:
    """As a value of ssh's, which splits at blanks and expands tokens."""
    return '"{}"'.format(str(path.absolute()).replace("%", "%%"))


@dataclass(kw_only=True)
class HostResult(Result):
    """`Result` with two more states: `unreachable`, ssh did not get there; `lost`, no result came."""

    host: str
    output: str = ""
    """What came besides: ssh's and the host's messages."""


async def deploy_to(
    host: Host, application: bytes, ssh: Ssh, limit: float, show: Callable[[str], None]
) -> HostResult:
    """Deploy to one host, for so many seconds at most. Cancelled: the session ends, the host goes on.

    Whatever is wrong with the session is in the result: it is no other host's affair.
    """
    heard = _Heard(show)
    try:
        process = await asyncio.create_subprocess_exec(
            *ssh.command(host),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
    except OSError as error:
        return HostResult(host=host.name, state="unreachable", reason=f"can't run ssh: {error.strerror}")
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit), asyncio.TaskGroup() as tasks:
                tasks.create_task(_send(process, application))
                tasks.create_task(heard.errors_of(process))
                await heard.events_of(process)
                await process.wait()
    except* ValueError:  # asyncio's, for a line beyond its limit
        heard.failure = f"it sends a line of more than {LINE_LIMIT} bytes"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return heard.result(host, process.returncode, limit)


async def _send(process: asyncio.subprocess.Process, application: bytes) -> None:
    assert process.stdin is not None
    with suppress(ConnectionError):  # it has ended already; its exit code and its errors say why
        process.stdin.write(application)
        await process.stdin.drain()
    process.stdin.close()


class _Heard:
    def __init__(self, show: Callable[[str], None]) -> None:
        self.failure: str | None = None
        """Why it is not listened to any more."""
        self._show = show
        self._started = False
        self._ended: dict[str, Any] | None = None
        self._rest: list[str] = []

    async def events_of(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").strip()
            try:
                event = json.loads(text)
                kind = event.pop("event")
            except (ValueError, AttributeError, KeyError, TypeError):
                self._rest.append(text)  # a greeting of the host's shell
                continue
            self._started = True
            if kind == "step":
                self._show(event["what"])
            elif kind == "result":
                self._ended = event

    async def errors_of(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self._rest.append(line.decode(errors="replace").rstrip())

    def result(self, host: Host, code: int | None, limit: float) -> HostResult:
        output = "\n".join(self._rest)
        if self._ended is not None:
            known = {field.name for field in fields(Result)}
            return HostResult(
                host=host.name, output=output, **{k: v for k, v in self._ended.items() if k in known}
            )
        if not self._started and code == SSH_FAILED:
            return HostResult(host=host.name, state="unreachable", reason=last_line(output), output=output)
        if not self._started and code and code > 0:
            return HostResult(host=host.name, state="refused", reason=last_line(output), output=output)
        if code is not None and code >= 0:
            reason = f"the session ended early: {last_line(output)}"
        else:
            reason = self.failure or f"no result within {limit:g} s"
        if not self._started:
            return HostResult(host=host.name, state="unreachable", reason=reason, output=output)
        reason += "; the host goes on by itself, to the new version or back"
        return HostResult(host=host.name, state="lost", reason=reason, output=output)
