"""What is installed in the environment of rnsd, and how to change it. Run by that environment's own Python.

pip tells beforehand what it would replace. All of that is kept first, each package as a wheel that is made of
its installed files, so the way back needs neither a network nor the place where the package came from.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from deploy.host.command import Problem, check
from deploy.host.keep import canonical, pack

PROJECT: Final = "rns-ble"
PIP_LIMIT: Final = 900.0
"""Seconds for pip: a Pi Zero that has to fetch Reticulum's cryptography takes minutes."""
OLDEST_PIP: Final = (22, 2)
"""The first whose dry run reports what it would install; Debian 12 has 23.0."""


@dataclass
class Plan:
    """What an installation changes, and the way back."""

    before: str | None
    """The version of this project that is there now."""
    after: dict[str, str] = field(default_factory=dict)
    """All packages that pip will install, this project among them, and their versions."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Those of them that are there already, and their versions now."""
    kept: str | None = None
    """The folder with wheels of what is replaced; None until `keep`."""


@dataclass(frozen=True)
class _Target:
    """Where pip installs to, and the options that make it do so."""

    scheme: str
    """sysconfig's name for the places."""
    options: list[str]

    @staticmethod
    def find() -> _Target:
        options = []
        scheme = sysconfig.get_default_scheme()
        if sys.prefix == sys.base_prefix:
            if (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file():
                # Who put rnsd there with pip has decided on that, and what the system brought is not touched.
                options.append("--break-system-packages")
            if not os.access(sysconfig.get_path("purelib"), os.W_OK):
                options.append("--user")
                scheme = sysconfig.get_preferred_scheme("user")
            if os.geteuid() == 0:
                options.append("--root-user-action=ignore")
        return _Target(scheme, options)

    def distributions(self) -> dict[str, metadata.Distribution]:
        """What pip could replace there, by canonical name. What lies elsewhere it leaves alone."""
        places = {os.path.realpath(sysconfig.get_path(name, self.scheme)) for name in ("purelib", "platlib")}
        found = metadata.distributions(path=sorted(places))
        return {canonical(distribution.metadata["Name"]): distribution for distribution in found}


def plan(wheel: str, extras: Sequence[str]) -> Plan:
    """What installing that wheel would change. Raises `Problem` where it can't be."""
    _check_pip()
    target = _Target.find()
    present = target.distributions()
    if PROJECT in present and _is_editable(present[PROJECT]):
        raise Problem(
            f"{PROJECT} is a development installation there, which is left alone: pip uninstall it first"
        )
    arguments = [*target.options, "--dry-run", "--quiet", "--report", "-", _requirement(wheel, extras)]
    report = json.loads(_pip("install", *arguments))
    after = {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in report["install"]}
    # pip leaves it out when that version is there already; we install it all the same.
    after.setdefault(PROJECT, Path(wheel).name.split("-")[1])
    return Plan(
        before=_visible_version(),
        after=after,
        replaced={name: present[name].version for name in after if name in present},
    )


def keep(planned: Plan) -> Plan:
    """Make wheels of what is going to be replaced; the same plan, with the folder that they are in."""
    target = _Target.find()
    present = target.distributions()
    directory = _state_directory()
    new = directory.with_suffix(".new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name in planned.replaced:
            pack(present[name], new, target.scheme)
        (new / "freeze.txt").write_text("".join(f"{line}\n" for line in sorted(_everything())))
        shutil.rmtree(directory, ignore_errors=True)
        new.rename(directory)
    except OSError as error:
        raise Problem(f"can't keep what is installed in {directory}: {error.strerror}") from error
    planned.kept = str(directory)
    return planned


def install(wheel: str, extras: Sequence[str]) -> str:
    """Install it, and what it needs; the version that is there now."""
    options = _Target.find().options
    before = _visible_version()
    _pip("install", "--quiet", *options, _requirement(wheel, extras))
    if before == Path(wheel).name.split("-")[1]:
        _pip("install", "--quiet", *options, "--no-deps", "--force-reinstall", wheel)
    return _visible_version() or "none"


def restore(planned: Plan) -> str:
    """Back to what was there before; the version that is there now."""
    target = _Target.find()
    if surplus := sorted((set(planned.after) - set(planned.replaced)) & set(target.distributions())):
        managed = [option for option in target.options if option == "--break-system-packages"]
        _pip("uninstall", "--quiet", "--yes", *managed, *surplus)
    if planned.kept and planned.replaced:
        # By name, so that nothing says afterwards that it came from here.
        found = [f"--find-links={planned.kept}", *(f"{name}=={v}" for name, v in planned.replaced.items())]
        _pip(
            "install",
            "--quiet",
            *target.options,
            "--no-index",
            "--no-deps",
            "--force-reinstall",
            *found,
        )
    return _visible_version() or "none"


def _check_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise Problem(f"{sys.executable} has no pip: {sys.executable} -m ensurepip")
    version = metadata.version("pip")
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_PIP:
        raise Problem(
            f"{sys.executable} has pip {version}, which is too old: {sys.executable} -m pip install -U pip"
        )


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    return check(command, f"pip {arguments[0]}", limit=PIP_LIMIT)


def _requirement(wheel: str, extras: Sequence[str]) -> str:
    return f"{wheel}[{','.join(extras)}]" if extras else wheel


def _visible_version() -> str | None:
    importlib.invalidate_caches()
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return None


def _is_editable(distribution: metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _everything() -> Iterator[str]:
    for distribution in metadata.distributions():
        yield f"{distribution.metadata['Name']}=={distribution.version}"


def _state_directory() -> Path:
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return home / "rns-ble-deploy" / sys.prefix.strip("/").replace("/", "-")


def main(arguments: Sequence[str]) -> int:
    """`ACTION ORDER`, the order in JSON; the answer is the last line on stdout."""
    action, order = arguments[0], json.loads(arguments[1])
    try:
        if action == "plan":
            answer = asdict(plan(order["wheel"], order["extras"]))
        elif action == "keep":
            answer = asdict(keep(Plan(**order["plan"])))
        elif action == "install":
            answer = {"version": install(order["wheel"], order["extras"])}
        else:
            answer = {"version": restore(Plan(**order["plan"]))}
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0
