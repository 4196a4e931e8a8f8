"""A clean Debian, whose user has nothing but what Debian comes with. See `clean_root`, which makes it."""

from __future__ import annotations

import ast
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import trio

from tests.newcomer.checkout import publish
from tests.newcomer.documents import ROOT
from tests.newcomer.terminals import Terminal

CLEAN_ROOT: Final = str(Path(__file__).parent / "clean_root")
BOOT: Final = str(ROOT / "tests" / "bluez" / "lab" / "boot")

MADE: Final = 1
"""Counts the changes of how a root is made, so that an older one is not taken from the cache."""

INDEX: Final = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "cert")
"""What of this machine's pip settings the root's pip gets: where packages are."""


def impossible() -> str | None:
    """Why this machine can't have such a root; None if it can."""
    if not sys.platform.startswith("linux") or "debian" not in platform.freedesktop_os_release().get(
        "ID", ""
    ):
        return "a Debian root is made of Debian's packages, on Debian"
    if os.geteuid() != 0:
        return "only root can make a root file system and change into it"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "this machine lets nobody make a mount namespace"
    if shutil.which("git") is None:
        return "a fresh checkout needs git"
    return None


def _archive(suite: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rns_ble" / "newcomer" / f"{suite}-{platform.machine()}-{MADE}.tar"


async def build(suite: str) -> Path:
    """The archive of a fresh Debian of that release. Half a minute, where it is not in the cache."""
    archive = _archive(suite)
    if not archive.exists():
        await trio.run_process(["unshare", "--mount", CLEAN_ROOT, "build", suite, str(archive)])
    return archive


@dataclass(frozen=True)
class Root:
    """A clean root in a mount namespace of its own, which `pid` is in."""

    path: Path
    pid: int

    def terminal(self) -> Terminal:
        """A shell of the user, who has just logged in."""
        user = ["chroot", str(self.path), "su", "-", "newcomer", "-c"]
        return Terminal(["nsenter", "-t", str(self.pid), "-m", *user], os.environ, ROOT)

    async def in_guest(self, bluez: str, rnsd: tuple[str, str], looks: Sequence[tuple[str, str]]) -> str:
        """Boot this root's machine, with an adapter and BlueZ. `rnsd` stays; when it says what it has to,
        each of the looks is repeated until it does so, too. Returns all that was printed.
        """
        boot = ["bash", BOOT, "--bluez", bluez, "-n", "1", "-t", "300", "--python", sys.executable]
        play = [sys.executable, "-m", "tests.newcomer.in_guest", str(self.path), *rnsd, *chain(*looks)]
        guest = Terminal(["nsenter", "-t", str(self.pid), "-m", "bash", "-c"], os.environ, ROOT)
        # Who enters a mount namespace is in its root folder.
        return await guest.run(f"{shlex.join(['cd', str(ROOT)])}\n{shlex.join([*boot, '--', *play])}")


@asynccontextmanager
async def debian(archive: Path, directory: Path) -> AsyncIterator[Root]:
    """A fresh root below a directory. After the block it is gone, with all that was mounted there."""
    settings = directory / "settings"
    settings.mkdir()
    publish(settings / "rns_ble.git")
    _write_pip_settings(settings)
    root = directory / "root"
    root.mkdir()
    hold = [CLEAN_ROOT, "hold", str(archive), str(root), str(settings)]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                ["unshare", "--mount", *hold],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdin:
            if await process.stdout.receive_some() != b"ready\n":
                raise AssertionError("the root could not be made: see what it says above")
            yield Root(root, process.pid)


def _write_pip_settings(settings: Path) -> None:
    """Where this machine's pip finds packages, for the root's: local folders by the same name, in it, too."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = ast.literal_eval(value)  # the environment comes first, and counts
    chosen = {key: found[key] for key in INDEX if key in found}
    if "cert" in chosen:
        shutil.copy(chosen["cert"], settings / "ca.crt")
        chosen["cert"] = "/etc/pip-ca.crt"
    lines = ["[global]", *(f"{key} = {value}" for key, value in chosen.items())]
    (settings / "pip.conf").write_text("".join(f"{line}\n" for line in lines))
    folders = {folder for key, value in chosen.items() for folder in _local_folders(key, value)}
    (settings / "folders").write_text("".join(f"{folder}\n" for folder in sorted(folders)))


def _local_folders(key: str, value: str) -> list[str]:
    """The folders of this machine that a setting names; an index's files are beside it."""
    paths = [Path(word.removeprefix("file://")) for word in value.split()]
    found = [path for path in paths if path.is_absolute() and path.is_dir()]
    return [str(path.parent if key.endswith("index-url") else path) for path in found]
