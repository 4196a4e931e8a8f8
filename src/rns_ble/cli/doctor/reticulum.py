"""Reticulum's configuration, the file that it loads the interface from, and who runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from rns_ble.cli import processes, reticulum_config
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Edit, Finding, Mend, failed, ok, skipped, warning
from rns_ble.cli.errors import CommandError
from rns_ble.cli.install import SHIM
from rns_ble.cli.running import user_name


def check_configuration(case: Case) -> Iterator[Finding]:
    """Is there a configuration, and can Reticulum read it?"""
    if isinstance(case.data, FileNotFoundError):
        first = Edit(
            f"write {case.config}, with an AutoInterface and a BLE interface",
            case.config,
            reticulum_config.new_configuration({}),
        )
        yield failed("configuration", f"there is no {case.config}", first)
    elif isinstance(case.data, OSError):
        yield failed("configuration", f"{case.config}: {case.data.strerror}", "ask as the user whose it is")
    elif isinstance(case.configuration, CommandError):
        yield failed("configuration", f"{case.config}: {case.configuration}", "correct that line")
    else:
        yield ok("configuration", str(case.config))


def check_shim(case: Case) -> Iterator[Finding]:
    """Does Reticulum find our interface under its name?"""
    if not case.needs_shim:
        yield skipped("shim", "no interface of the type BLEInterface needs it")
        return
    path = case.directory / "interfaces" / f"{reticulum_config.INTERFACE_TYPE}.py"
    write = Edit(f"write {path}, which `rns-ble install` does as well", path, SHIM.encode())
    try:
        present = path.read_text(errors="replace")
    except FileNotFoundError:
        yield failed("shim", f"there is no {path}, so Reticulum can't load the interface", write)
    except OSError as error:
        yield failed("shim", f"{path}: {error.strerror}", "ask as the user whose it is")
    else:
        if present == SHIM:
            yield ok("shim", str(path))
        elif "rns_ble.interface" in present:
            yield warning("shim", f"{path} is of another version of rns_ble", write)
        else:
            yield failed("shim", f"{path} is another implementation's; a copy of it will be kept", write)


def check_sections(case: Case) -> Iterator[Finding]:
    """Is there an interface in the configuration, switched on and valid?"""
    if isinstance(case.data, OSError) or isinstance(case.configuration, CommandError):
        yield skipped("section", "there is no configuration that can be read")
        return
    sections = case.sections | case.own_sections
    if not sections:
        name = reticulum_config.SECTION_NAME
        mend = _edit(case, f"add [[{name}]] to {case.config}", _with_block)
        yield failed("section", "no interface of the type BLEInterface in [interfaces]", mend)
    enabled = [name for name, section in sections.items() if reticulum_config.is_enabled(section)]
    for name, section in sections.items():
        if name in enabled and name in case.own_sections:
            own = f"type {section.get('type')}, a driver of one's own; doctor can't look into it"
            yield skipped("section", f"[[{name}]]: {own}")
        elif name in enabled:
            yield from _check_section(case, name, section)
        elif enabled:
            yield skipped("section", f"[[{name}]] is not enabled")
        else:
            yield failed("section", f"[[{name}]] is not enabled", _enable(case, name, section))


def _check_section(case: Case, name: str, section: Mapping[str, str]) -> Iterator[Finding]:
    from rns_ble.config import KEYS, BLEConfig, unknown_keys  # noqa: PLC0415  (brings in Trio)
    from rns_ble.drivers.base import ConfigurationError  # noqa: PLC0415

    values = {key.name: section[key.name] for key in KEYS if key.name in section}
    wrong = False
    for key in KEYS:
        try:
            key.parse(values.get(key.name, key.default))
        except ConfigurationError as error:
            wrong = True
            yield failed("section", f"[[{name}]]: {error}", _without(case, name, key.name))
    if not wrong:
        try:
            config = BLEConfig(**values)  # type: ignore[arg-type]  # each value is parsed by its key
        except ConfigurationError as error:  # together they make no sense
            yield failed("section", f"[[{name}]]: {error}", f"correct it in {case.config}")
        else:
            for key_, driver in config.keys_of_other_drivers().items():
                yield warning(
                    "section",
                    f"[[{name}]]: {key_} has no effect, it belongs to driver = {driver}",
                    _without(case, name, key_),
                )
            of = f", {config.transport or config.adapter}" if config.transport or config.adapter else ""
            yield ok("section", f"[[{name}]]: driver = {config.driver}{of}")
    for key_, nearest in unknown_keys(section).items():
        if nearest is None:
            yield warning("section", f"[[{name}]]: nobody knows {key_}", _without(case, name, key_))
        else:
            yield warning(
                "section",
                f"[[{name}]]: nobody knows {key_}; did you mean {nearest}?",
                changed_line(case, name, key_, f"call it {nearest}", _renamed(key_, nearest)),
            )


def _renamed(key: str, nearest: str) -> Callable[[str], str]:
    return lambda line: line.replace(key, nearest, 1)


def _without(case: Case, name: str, key: str) -> Mend:
    return changed_line(case, name, key, f"comment out {key}", lambda line: f"# {line}")


def _enable(case: Case, name: str, section: Mapping[str, str]) -> Mend:
    if "enabled" in section:
        return changed_line(case, name, "enabled", "set `enabled = yes`", lambda _: "enabled = yes")
    return changed_line(case, name, "type", "add `enabled = yes`", lambda line: f"{line}\nenabled = yes")


def changed_line(case: Case, name: str, key: str, what: str, change: Callable[[str], str]) -> Mend:
    """Another line, or more, where that interface has this key (`reticulum_config.with_line`)."""
    what = f"{what} in [[{name}]] of {case.config}"
    return _edit(case, what, lambda data: reticulum_config.with_line(data, name, key, change))


def _edit(case: Case, what: str, change: Callable[[bytes], bytes]) -> Mend:
    """The change; in words alone where it can't be made safely."""
    assert isinstance(case.data, bytes)
    try:
        return Edit(what, case.config, change(case.data))
    except CommandError:
        return f"{what}, by hand"


def _with_block(data: bytes) -> bytes:
    return reticulum_config.with_block(data, reticulum_config.free_name(reticulum_config.parse(data)))


def check_shared_instance(case: Case) -> Iterator[Finding]:
    """Which program brings the interfaces up? It is the first one that has started Reticulum."""
    owner = case.owner
    if not case.instance.shared:
        yield skipped(
            "shared instance", "share_instance = no: each program brings the interfaces up by itself"
        )
    elif owner is None and case.holder is not None:
        whose = f"{user_name(case.holder.uid)} has port {case.instance.name}"
        yield skipped("shared instance", f"{whose}, and with which program can't be seen: ask as root")
    elif owner is None:
        yield warning(
            "shared instance",
            f"no program runs Reticulum as {case.instance.name!r}: the interface is not up",
            _start(case),
        )
    elif (theirs := _directory_of(owner)) is not None and theirs != case.directory.resolve():
        yield failed(
            "shared instance",
            f"{owner} has the instance {case.instance.name!r} with {theirs}, so {case.directory} is not read",
            "give this configuration an `instance_name` of its own in [reticulum], or name the other with "
            "--config",
        )
    elif owner.name == "rnsd":
        yield ok("shared instance", f"{owner} brings the interfaces up")
    elif idle := _idle_rnsd(case, owner.pid):
        yield warning(
            "shared instance",
            f"{owner} was first and brings the interfaces up; {idle} only uses them",
            f"let rnsd start first: end both, start rnsd, then {owner.name}",
        )
    else:
        yield ok("shared instance", f"{owner} brings the interfaces up: it is its Python that counts")


def check_in_force(case: Case) -> Iterator[Finding]:
    """Does that program know what the configuration says now?"""
    started = None if case.owner is None else processes.started(case.owner.pid)
    if case.owner is None or started is None or isinstance(case.data, OSError):
        yield skipped("in force", "no program runs that would have read the configuration")
    elif case.config.stat().st_mtime > started + processes.STARTED_WITHIN:
        yield warning(
            "in force",
            f"the configuration was changed since {case.owner.name} has read it",
            f"restart {case.owner.name}",
        )
    else:
        yield ok("in force", f"{case.owner.name} has read the configuration as it is now")


def _start(case: Case) -> Mend:
    return f"start rnsd{f' --config {case.explicit}' if case.explicit else ''}, or the service that runs it"


OPTIONS: Final = {"rnsd": "--config", "nomadnet": "--rnsconfig", "lxmd": "--rnsconfig"}
"""With which option programs are told the configuration directory, which is else the one of their user."""


def _directory_of(program: processes.Process) -> Path | None:
    """Its configuration directory; None when that can't be told."""
    if program.name not in OPTIONS:
        return None
    named = program.option(OPTIONS[program.name])
    if named is None:
        return reticulum_config.find_directory(home=program.home).resolve()
    if program.directory is None and not Path(named).is_absolute():
        return None
    return Path(program.directory or "/", named).resolve()


def _idle_rnsd(case: Case, owner: int) -> processes.Process | None:
    """An rnsd with this configuration that came too late."""
    others = (processes.look_at(pid) for pid in processes.everybody() if pid not in (owner, os.getpid()))
    rnsds = (process for process in others if process is not None and process.name == "rnsd")
    return next((rnsd for rnsd in rnsds if _directory_of(rnsd) == case.directory.resolve()), None)
