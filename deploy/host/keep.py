"""A wheel made of what is installed: pip keeps none, and where it came from may be gone."""

from __future__ import annotations

import base64
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

from deploy.host.command import Problem

LEFT_OUT: Final = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"})
"""What the installer has added about this very installation."""


def canonical(name: str) -> str:
    """A project's name as all its spellings compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pack(distribution: metadata.Distribution, directory: Path, scheme: str) -> Path:
    """Make that wheel of what was installed with this scheme of sysconfig's.

    Raises `Problem` where the installation does not tell its files, and OSError.
    """
    files = distribution.files
    information = next((file.parent for file in files or () if file.name == "RECORD"), None)
    if files is None or information is None:
        raise Problem(
            f"{distribution.metadata['Name']} does not tell its files, so it can't be kept: reinstall it"
        )
    stem = information.name.removesuffix(".dist-info")
    # The tag in the name is the only one that pip compares, and it goes back to where it fitted before.
    path = directory / f"{stem}-py3-none-any.whl"
    record = []
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, source in _contents(distribution, files, stem, scheme):
            data = source.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f'"{name}",sha256={digest},{len(data)}\n')
            archive.writestr(name, data)
        name = f"{information.name}/RECORD"
        archive.writestr(name, "".join([*record, f'"{name}",,\n']))
    return path


def _contents(
    distribution: metadata.Distribution, files: list[metadata.PackagePath], stem: str, scheme: str
) -> Iterator[tuple[str, Path]]:
    """What goes into the wheel, and where it lies now."""
    scripts, data = (Path(sysconfig.get_path(name, scheme)).resolve() for name in ("scripts", "data"))
    generated = {entry.name for entry in distribution.entry_points if entry.group.endswith("_scripts")}
    for file in files:
        source = Path(str(distribution.locate_file(file)))
        if "__pycache__" in file.parts or not source.is_file():
            continue
        if file.parts[0] != "..":
            if file.parts[0].endswith(".dist-info") and file.name in LEFT_OUT:
                continue
            yield str(file), source
            continue
        # Resolved up to its directory: a file that is a link is that file.
        place = source.parent.resolve() / source.name
        if place.parent == scripts:
            if place.name not in generated:
                yield f"{stem}.data/scripts/{place.name}", source
        elif place.is_relative_to(data):
            yield f"{stem}.data/data/{place.relative_to(data)}", source
        else:
            raise Problem(f"{distribution.metadata['Name']} has files in {place.parent}, so it can't be kept")
