"""A real sshd on loopback, for this user and for as long as a test runs.

The machine's own program where it has one, or else that of its Debian release, unpacked into a folder of the
cache: to install it would start a service. For root it needs a user `sshd`; where there is none, nss_wrapper
tells sshd of one, and nobody else.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rns_ble" / "sshd-1"
PACKAGES: Final = ("openssh-server", "libwrap0", "libnss-wrapper")
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")
"""Where Debian's sshd confines what speaks to strangers, when root runs it."""
PATIENCE: Final = 30.0


class Sshd:
    """It, and what a client needs to know."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.identity = directory / "identity"
        self.known_hosts = directory / "known_hosts"
        self._environment = environment
        _key(self.identity)
        _key(directory / "host_key")
        self.port = _free_port()
        self.known_hosts.write_text(self.known_as(directory / "host_key"))

    def known_as(self, key: Path) -> str:
        """The line of a known_hosts that says that this server has that key."""
        kind, public, *_ = key.with_suffix(".pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {public}\n"

    def other_key(self) -> Path:
        """A known_hosts with a key that this server does not have."""
        _key(self.directory / "other_key")
        path = self.directory / "other_known_hosts"
        path.write_text(self.known_as(self.directory / "other_key"))
        return path

    @contextmanager
    def running(self, enter: Sequence[str] = ()) -> Iterator[Sshd]:
        """It, from the moment when it listens. `enter`: the command that brings it to where it shall run."""
        root = _unpacked()
        program = shutil.which("sshd", path="/usr/sbin:/sbin") or f"{root}/usr/sbin/sshd"
        environment = {**os.environ, **_preloaded(self.directory)}
        if root is not None:
            libraries = {library.parent for library in root.glob("usr/lib/*/lib*.so*")}
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
        configuration = self.directory / "sshd_config"
        configuration.write_text(self._configuration(root, program, environment))
        log = self.directory / "sshd.log"
        with log.open("wb") as output:
            command = [*enter, program, "-D", "-e", "-f", str(configuration)]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + PATIENCE
            while "Server listening" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield self
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def _configuration(self, root: Path | None, program: str, environment: dict[str, str]) -> str:
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {self.directory}/host_key",
            f"AuthorizedKeysFile {self.identity}.pub",
            "PidFile none",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",  # the folder of the tests is below one that everybody may write to
            "SetEnv " + " ".join(f'"{key}={value}"' for key, value in self._environment.items()),
        ]
        version = subprocess.run(
            [program, "-V"], env=environment, capture_output=True, text=True, check=False
        )
        match = re.search(r"OpenSSH_(\d+)\.(\d+)", version.stderr + version.stdout)
        if root is not None and match and (int(match[1]), int(match[2])) >= (9, 8):
            # From there on it is in several programs.
            lines.append(f"SshdSessionPath {root}/usr/lib/openssh/sshd-session")
            if int(match[1]) >= 10:
                lines.append(f"SshdAuthPath {root}/usr/lib/openssh/sshd-auth")
        return "".join(f"{line}\n" for line in lines)


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _preloaded(directory: Path) -> dict[str, str]:
    """The environment in which root can run it."""
    if os.geteuid() != 0:
        return {}
    PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    try:
        pwd.getpwnam("sshd")
    except KeyError:
        pass
    else:
        return {}
    root = _unpacked(always=True)
    assert root is not None
    users = directory / "passwd"
    stranger = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    users.write_text(Path("/etc/passwd").read_text() + stranger)
    return {
        "LD_PRELOAD": str(next(root.glob("usr/lib/*/libnss_wrapper.so"))),
        "NSS_WRAPPER_PASSWD": str(users),
        "NSS_WRAPPER_GROUP": "/etc/group",
    }


def _unpacked(*, always: bool = False) -> Path | None:
    """Debian's packages, unpacked; None where the machine has an sshd of its own."""
    if not always and shutil.which("sshd", path="/usr/sbin:/sbin"):
        return None
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("this machine has no sshd, and it can be fetched for Debian only: install openssh-server")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with CACHE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not CACHE.is_dir():
            _fetch(CACHE)
    return CACHE


def _fetch(place: Path) -> None:
    new = place.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    archives, lists = new / "archives", new / "lists"
    for directory in (archives, lists / "partial", new / "cache"):
        directory.mkdir(parents=True)
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    # The machine's lists may be old, or none; ours need no right to replace them.
    ours = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={new}/cache"]
    attempts = [
        [[*apt, "download", *PACKAGES]],
        [[*apt, *ours, "update"], [*apt, *ours, "download", *PACKAGES]],
    ]
    said = ""
    for commands in attempts:
        for command in commands:
            outcome = subprocess.run(command, cwd=archives, capture_output=True, text=True, check=False)
            said += outcome.stderr
        if outcome.returncode == 0:
            break
    else:
        pytest.fail(f"can't fetch {', '.join(PACKAGES)}:\n{said}", pytrace=False)
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(new)], check=True)
    for directory in (archives, lists, new / "cache"):
        shutil.rmtree(directory)
    new.rename(place)
