"""The list of hosts, a TOML file: docs/deployment.md explains it, deploy/hosts.example.toml is one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from deploy.errors import DeployError

DEFAULTS: Final = "defaults"
HOSTS: Final = "hosts"

SCOPES: Final = ("system", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host, and how Reticulum lives there."""

    name: str
    address: str
    """What ssh takes for it: a name, `user@name`, or a `Host` of ~/.ssh/config."""
    port: int | None = None
    """Nothing: what ssh's own configuration says, or else 22."""
    sudo: bool = False
    """Do it all as root, through `sudo -n`: for a service of the system."""
    python: str = "python3"
    """What runs the host's half there: Python 3.11 or newer. It needs nothing of Reticulum's."""
    rnsd: str | None = None
    """Nothing: the service's own, or the first on PATH."""
    config: str | None = None
    """Reticulum's configuration directory. Nothing: what the service says, or where Reticulum looks."""
    extras: tuple[str, ...] = ()
    """Extras of the package, for example `bumble` for a dongle."""
    service: str = "rnsd.service"
    scope: str | None = None
    """Of the service. Nothing: `system` with sudo or as root, and else `user`."""
    restart: str | None = None
    """A shell command that restarts rnsd where no systemd does."""
    wait: float = 60.0
    """Seconds that the interface may take to come up: a Pi Zero needs 15 to start rnsd alone."""


def read(path: Path, wanted: tuple[str, ...] = ()) -> list[Host]:
    """The hosts in that file, in its order; of these names only, if there are any. Raises `DeployError`."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise DeployError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} is not TOML: {error}") from error
    if unknown := sorted(set(document) - {DEFAULTS, HOSTS}):
        raise DeployError(f"{path}: unknown `{unknown[0]}`; there are [{DEFAULTS}] and [{HOSTS}.NAME]")
    defaults = _table(path, document, DEFAULTS)
    hosts = _table(path, document, HOSTS)
    if not hosts:
        raise DeployError(f"{path} names no host: write [{HOSTS}.NAME]")
    if missing := [name for name in wanted if name not in hosts]:
        raise DeployError(f"{path} has no host {missing[0]!r}; it has {', '.join(hosts)}")
    return [
        _host(path, name, {**defaults, **_table(path, hosts, name)})
        for name in hosts
        if not wanted or name in wanted
    ]


def _table(path: Path, parent: dict[str, Any], key: str) -> dict[str, Any]:
    table = parent.get(key, {})
    if not isinstance(table, dict):
        raise DeployError(f"{path}: `{key}` is no table")
    return table


def _host(path: Path, name: str, values: dict[str, Any]) -> Host:
    where = f"{path}: host {name}"
    values = {"address": name, **values}
    for key, value in values.items():
        if key not in _KINDS:
            raise DeployError(f"{where}: unknown key `{key}`; there are {', '.join(sorted(_KINDS))}")
        allowed, meaning = _KINDS[key]
        # True is an int in Python, and no port.
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
            raise DeployError(f"{where}: `{key}` must be {meaning}, not {value!r}")
    if values["address"].startswith("-") or not values["address"].strip():
        raise DeployError(f"{where}: {values['address']!r} is no address")
    if values.get("scope", SCOPES[0]) not in SCOPES:
        raise DeployError(f"{where}: `scope` must be {' or '.join(SCOPES)}, not {values['scope']!r}")
    if values.get("sudo") and values.get("scope") == "user":
        raise DeployError(f"{where}: `sudo` is for a service of the system, and `scope` says user")
    extras = values.get("extras", [])
    if not all(isinstance(extra, str) for extra in extras):
        raise DeployError(f"{where}: `extras` must be a list of texts, not {extras!r}")
    return Host(name=name, **{**values, "extras": tuple(extras)})


_TEXT: Final = (str, "a text")
_KINDS: Final[dict[str, tuple[Any, str]]] = {
    **{field.name: _TEXT for field in fields(Host) if field.name != "name"},
    "port": (int, "an integer"),
    "sudo": (bool, "true or false"),
    "extras": (list, "a list of texts"),
    "wait": ((int, float), "a number of seconds"),
}
