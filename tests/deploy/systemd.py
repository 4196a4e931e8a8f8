"""The machine's own systemd, once more: as the first process of namespaces, where it rules nothing else.

Root only. Its file system is this machine's, with empty folders laid over those that the unit names. Of units
it knows what is installed while it runs and, instead of the machine's, empty targets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.sshd import CACHE

ROOT: Final = Path(__file__).parents[2]
UNITS: Final = ROOT / "deploy/systemd"
PATIENCE: Final = 60.0
PROGRAM: Final = "/lib/systemd/systemd"
TARGETS: Final = ("sysinit", "basic", "network", "shutdown", "multi-user", "rescue", "test")

LIBRARIES: Final = {"LD_LIBRARY_PATH": "/mnt/python/lib"}
"""Python's own, where it has one, is looked for in a place that only root may enter."""

BEGIN: Final = r"""
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
# What is under the folders that are covered below, and is needed.
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/python /mnt/packages /mnt/work /mnt/cache
mount --bind "$PYTHON" /mnt/python
mount --bind "$PACKAGES" /mnt/packages
mount --bind "$WORK" /mnt/work
mount --bind "$CACHE" /mnt/cache
for folder in /run /tmp /var/lib /opt /etc/systemd/system; do mount -t tmpfs -o mode=755 none $folder; done
chmod 1777 /tmp
# This one would reach the machine's radio.
[ ! -e /usr/sbin/rfkill ] || mount --bind /bin/true /usr/sbin/rfkill
mkdir -p /run/systemd/system /run/sshd "$WORK" "$CACHE"
mount --bind /mnt/work "$WORK"
mount --bind /mnt/cache "$CACHE"
for file in passwd group shadow gshadow; do
    [ ! -e "$WORK/etc/$file" ] || mount --bind "$WORK/etc/$file" /etc/$file
done
/mnt/python/bin/python3 -m venv --without-pip /opt/reticulum
for entry in /mnt/packages/*; do
    case ${entry##*/} in rns_ble* | _rns_ble* | _editable* | __*) continue ;; esac
    mkdir -p /opt/shared
    ln -s "$entry" /opt/shared/
done
echo /opt/shared >"$(echo /opt/reticulum/lib/python3.*/site-packages)/shared.pth"
printf '#!/opt/reticulum/bin/python\nfrom RNS.Utilities.rnsd import main\nmain()\n' >/opt/reticulum/bin/rnsd
chmod 755 /opt/reticulum/bin/rnsd
exec env -i PATH="$PATH" container=lxc SYSTEMD_LOG_TARGET=console \
    SYSTEMD_GENERATOR_PATH=/run/nothing SYSTEMD_UNIT_PATH="/etc/systemd/system:$WORK/units" \
    "$PROGRAM" --system --unit=test.target --show-status=no
"""


class Systemd:
    """It, and what is run beside it."""

    def __init__(self, work: Path, inside: int) -> None:
        self.work = work
        self.enter = ["nsenter", "--target", str(inside), "--all"]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program there; what it prints."""
        ended = subprocess.run(
            [*self.enter, *command],
            env={**os.environ, **LIBRARIES},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or ended.returncode == 0, ended.stderr + ended.stdout
        return ended.stdout

    def shows(self, name: str) -> str:
        """A property of rnsd.service."""
        return self.run("systemctl", "show", f"--property={name}", "--value", "rnsd.service").strip()


@contextmanager
def systemd(work: Path) -> Iterator[Systemd]:
    """Start it, with our units and the user that they name, in that folder."""
    needed = ("unshare", "nsenter", "systemd-sysusers", PROGRAM)
    if missing := [program for program in needed if shutil.which(program) is None]:
        pytest.skip(f"this machine has no {missing[0]}")
    _units(work)
    _users(work)
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHON": sys.base_prefix,
        "PACKAGES": sysconfig.get_path("purelib"),
        "WORK": str(work),
        "CACHE": str(CACHE.parent),  # an sshd may be there, or come there
        "PROGRAM": PROGRAM,
    }
    flags = ["--mount", "--pid", "--fork", "--mount-proc", "--cgroup", "--uts", "--ipc", "--kill-child"]
    log = work / "systemd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", *flags, "bash", "-c", BEGIN],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            if process.poll() is not None:
                pytest.skip(f"systemd can't run in namespaces here: {log.read_text().strip()[-300:]}")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children:
                found = Systemd(work, int(children[0]))
                if found.run("systemctl", "is-system-running", check=False).strip() in {
                    "running",
                    "degraded",
                }:
                    break
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield found
    finally:
        process.kill()
        process.wait()


def _units(work: Path) -> None:
    shutil.copytree(UNITS, work / "deploy/systemd")
    folder = work / "units/rnsd.service.d"
    folder.mkdir(parents=True)
    for target in TARGETS:
        (work / f"units/{target}.target").write_text("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")
    # There is no journal in there, and no patience.
    lines = ["[Service]", "RestartSec=0.1", f"StandardOutput=append:{work}/rnsd.log", "StandardError=inherit"]
    lines += [f"Environment={key}={value}" for key, value in LIBRARIES.items()]
    (folder / "test.conf").write_text("".join(f"{line}\n" for line in lines))


def _users(work: Path) -> None:
    etc = work / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), etc)
    subprocess.run(
        ["systemd-sysusers", f"--root={work}", "-"],
        input=(UNITS / "reticulum.sysusers").read_bytes(),
        check=True,
    )
