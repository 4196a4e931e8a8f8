"""Reticulum's configuration directory: where it is, what it says, and how to add a section to it.

Rules of an edit:

1. What the user wrote stays, byte for byte; a section is only ever inserted.
2. The edit is checked before it is written: Reticulum's own parser must find all that was there before,
   unchanged, and the new section, and nothing else.
3. The file is replaced in one step, keeps its mode and owner, and a copy of the old one stays beside it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from rns_ble.cli.errors import CommandError, UsageError

INTERFACE_TYPE: Final = "BLEInterface"
"""The value of `type`, and so the name of the file that Reticulum loads."""

SECTION_NAME: Final = "BLE Interface"

_SECTION: Final = re.compile(
    r"^\s*(?P<open>(?:\[\s*)+)(?P<name>\"[^\"]*\"|'[^']*'|[^'\"\s\[].*?)(?:\s*\])+\s*(?:#.*)?$"
)
_IMPORTS_US: Final = re.compile(r"^\s*(?:from|import)\s+rns_ble\b", re.MULTILINE)
_TRIPLE_QUOTE: Final = re.compile(r"[^#=]*=\s*('''|\"\"\")")


def find_directory(explicit: str | None = None, home: Path | None = None) -> Path:
    """The configuration directory Reticulum would take: the first that has a config, else ~/.reticulum.

    `home`: another user's, instead of ours. Raises `UsageError` where `explicit` names a file.
    """
    if explicit is not None:
        directory = Path(explicit).expanduser().absolute()
        if os.path.isfile(directory):
            raise UsageError(f"--config takes a directory, and {directory} is a file")
        return directory
    home = home or Path.home()
    for candidate in (Path("/etc/reticulum"), home / ".config" / "reticulum"):
        if os.path.isfile(candidate / "config"):  # as Reticulum: what it may not look at is not there
            return candidate
    return home / ".reticulum"


def block(name: str = SECTION_NAME, keys: Mapping[str, str] | None = None, *, indentation: str = "  ") -> str:
    """The section of one BLE interface, ready for [interfaces]; ends in a newline."""
    values = {"type": INTERFACE_TYPE, "enabled": "yes", **(keys or {})}
    lines = [f"[[{name}]]", *(f"  {key} = {value}" for key, value in values.items())]
    return "".join(f"{indentation}{line}\n" for line in lines)


def parse(data: bytes) -> dict[str, Any]:
    """The whole configuration as Reticulum reads it. Raises `CommandError` when Reticulum couldn't."""
    from RNS.vendor.configobj import ConfigObj, ConfigObjError  # noqa: PLC0415  (brings in all of RNS)

    try:
        # Without interpolation a value compares as it is written.
        parsed: dict[str, Any] = ConfigObj(io.BytesIO(data), interpolation=False).dict()
    except (ConfigObjError, UnicodeError) as error:
        raise CommandError(
            f"Reticulum can't read this configuration, so it was left alone: {error}"
        ) from error
    return parsed


def sections(configuration: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """All interfaces in it, by name; a value with commas in it as it was written."""
    return {
        name: {
            key: ",".join(value) if isinstance(value, list) else str(value) for key, value in section.items()
        }
        for name, section in _interfaces(configuration).items()
        if isinstance(section, Mapping)
    }


def ble_sections(configuration: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The interfaces of our type in it."""
    found = sections(configuration).items()
    return {name: section for name, section in found if section.get("type") == INTERFACE_TYPE}


def own_sections(configuration: Mapping[str, Any], directory: Path) -> dict[str, Mapping[str, str]]:
    """The interfaces of another type whose file below that directory builds on this package: they bring a
    driver of their own (docs/drivers.md).
    """
    return {
        name: section
        for name, section in sections(configuration).items()
        if section.get("type") != INTERFACE_TYPE and _builds_on_us(directory, section.get("type", ""))
    }


def _builds_on_us(directory: Path, interface_type: str) -> bool:
    try:
        source = (directory / "interfaces" / f"{interface_type}.py").read_text(errors="replace")
    except (OSError, ValueError):  # there is none, or there can be none of that name
        return False
    return _IMPORTS_US.search(source) is not None


def free_name(configuration: Mapping[str, Any]) -> str:
    """A name for one more interface."""
    taken = _interfaces(configuration)
    names = (SECTION_NAME, *(f"{SECTION_NAME} {number}" for number in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)


def _interfaces(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    interfaces = configuration.get("interfaces", {})
    if not isinstance(interfaces, Mapping):
        raise CommandError("`interfaces` is no section of this configuration: correct that first")
    return interfaces


def is_enabled(section: Mapping[str, str]) -> bool:
    """Whether Reticulum would start this interface."""
    answers = (section.get(key, "").lower() for key in ("interface_enabled", "enabled"))
    return any(answer in {"yes", "true", "on", "1"} for answer in answers)


def with_block(data: bytes, name: str, keys: Mapping[str, str] | None = None) -> bytes:
    """The same configuration with one more interface. Raises `CommandError` when that isn't safe to do."""
    before = parse(data)
    text = data.decode("utf-8", "surrogateescape")
    after = _insert(text, name, keys).encode("utf-8", "surrogateescape")
    interfaces = {**_interfaces(before), **parse(_alone(name, keys))["interfaces"]}
    expected = {**before, "interfaces": interfaces}
    if parse(after) != expected:
        raise CommandError("no safe place for the section was found in this configuration: paste it by hand")
    return after


def _alone(name: str, keys: Mapping[str, str] | None) -> bytes:
    return f"[interfaces]\n{block(name, keys)}".encode()


def _insert(text: str, name: str, keys: Mapping[str, str] | None) -> str:
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    place = _place(lines)
    if place is None:
        end, added = len(lines), f"[interfaces]\n\n{block(name, keys)}"
    else:
        end, added = place[0], block(name, keys, indentation=place[1])
    if lines:
        added = f"\n{added}" if lines[end - 1].endswith(("\n", "\r")) else f"\n\n{added}"
    if end < len(lines) and lines[end].strip():
        added += "\n"
    return "".join([*lines[:end], added.replace("\n", newline), *lines[end:]])


def _place(lines: list[str]) -> tuple[int, str] | None:
    """Where a section at the end of [interfaces] goes: before which line, indented with what."""
    headers = list(_headers(lines))
    start = next((line for line, depth, name in headers if depth == 1 and name == "interfaces"), None)
    if start is None:
        return None
    end = next((line for line, depth, _ in headers if depth == 1 and line > start), None)
    inside = [line for line, depth, _ in headers if depth == 2 and start < line < (end or len(lines))]
    indentation = re.match(r"\s*", lines[inside[-1]])[0] if inside else "  "  # type: ignore[index]  # matches all
    if end is None:
        return _skip_back(lines, len(lines), str.isspace), indentation
    last = _skip_back(lines, end, lambda line: line.isspace() or line.lstrip().startswith("#"))
    # Comments right below a section's last line are that section's, unless they lead on to the next header.
    comments = next(line for line in range(last, end + 1) if not lines[line].lstrip().startswith("#"))
    return (last if comments == end else comments), indentation


def _skip_back(lines: list[str], end: int, skipped: Callable[[str], bool]) -> int:
    while skipped(lines[end - 1]):
        end -= 1
    return end


def _headers(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """The section headers: line, depth (1 for [one]), name."""
    quote: str | None = None
    for number, line in enumerate(lines):
        if quote is not None:  # inside a value of several lines
            quote = None if quote in line else quote
            continue
        if header := _SECTION.match(line.lstrip("\ufeff").rstrip("\r\n")):
            yield number, header["open"].count("["), header["name"].strip("'\"")
        elif (opened := _TRIPLE_QUOTE.match(line)) and line.count(opened[1]) == 1:
            quote = opened[1]


def with_line(data: bytes, name: str, key: str, change: Callable[[str], str]) -> bytes:
    """The same configuration with another line, or more, where an interface has this key.

    `change`: the line as it is, without its indentation → what takes its place. Raises `CommandError` when
    that isn't safe to do.
    """
    before = parse(data)
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    headers = [*_headers(lines), (len(lines), 1, "")]
    inside = False
    number = None
    for (start, depth, header), (end, _, _) in pairwise(headers):
        inside = header == "interfaces" if depth == 1 else inside
        if inside and depth == 2 and header == name:
            its = re.compile(rf"\s*(['\"]?){re.escape(key)}\1\s*=")
            number = next((line for line in range(start + 1, end) if its.match(lines[line])), None)
    if number is None:
        raise CommandError(f"no line with {key} was found in [[{name}]]: edit it by hand")
    indentation, line, ending = re.fullmatch(r"(\s*)(.*?)(\s*)", lines[number], re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    changed = change(line)
    lines[number] = "".join(f"{indentation}{part}{ending or chr(10)}" for part in changed.split("\n"))
    after = "".join(lines).encode("utf-8", "surrogateescape")
    section = dict(_interfaces(before)[name])
    del section[key]
    section |= parse(f"[interfaces]\n[[x]]\n{changed}\n".encode())["interfaces"]["x"]
    if parse(after) != {**before, "interfaces": {**_interfaces(before), name: section}}:
        raise CommandError(f"{key} of [[{name}]] can't be changed safely: edit it by hand")
    return after


def new_configuration(keys: Mapping[str, str]) -> bytes:
    """A first configuration: the local network as Reticulum's own default has it, and BLE beside it."""
    return (
        "# Reticulum's configuration. `rnsd --exampleconfig` explains every option.\n"
        "\n[reticulum]\n  enable_transport = no\n  share_instance = yes\n"
        "\n[logging]\n  loglevel = 4\n"
        "\n[interfaces]\n\n  [[Default Interface]]\n    type = AutoInterface\n    enabled = yes\n"
        f"\n{block(keys=keys)}"
    ).encode()


def back_up(path: Path) -> Path:
    """Copy a file beside itself under a name with the time in it; returns that name."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for suffix in ("", *(f".{number}" for number in range(1, 100))):
        copy = path.with_name(f"{path.name}.{stamp}{suffix}.bak")
        try:
            copy.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            continue
        shutil.copy2(path, copy)
        return copy
    raise CommandError(f"there are a hundred backups of {path} from this second already")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever reads it sees the old or the new one, whole. Keeps mode and owner."""
    path = path.resolve()  # a link stays a link
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:
            if path.exists():
                status = path.stat()
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
            else:
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(file.fileno(), 0o666 & ~umask)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
