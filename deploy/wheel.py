"""The one wheel that all hosts get."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from deploy.errors import DeployError

ROOT = Path(__file__).parents[1]
PROJECT = "rns-ble"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of this project, in memory."""

    name: str
    """Of its file, which pip reads."""
    version: str
    data: bytes


def build(directory: Path) -> Path:
    """Build one from this checkout, in an environment that pip makes for it. Raises `DeployError`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(directory),
        str(ROOT),
    ]
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    built = list(directory.glob("*.whl"))
    if outcome.returncode != 0 or len(built) != 1:
        raise DeployError(f"the wheel could not be built: {last_line(outcome.stderr)}")
    return built[0]


def load(path: Path) -> Wheel:
    """Read one. Raises `DeployError` where it is none of this project's."""
    try:
        data = path.read_bytes()
        with ZipFile(path) as archive:
            place = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = HeaderParser().parsestr(archive.read(place).decode())
    except OSError as error:
        raise DeployError(f"can't read {path}: {error.strerror}") from error
    except (BadZipFile, StopIteration, UnicodeDecodeError) as error:
        raise DeployError(f"{path} is no wheel") from error
    if metadata["Name"] != PROJECT:
        raise DeployError(f"{path} is a wheel of {metadata['Name']}, not of {PROJECT}")
    return Wheel(path.name, metadata["Version"], data)


def last_line(text: str) -> str:
    """What a program said last, which is mostly why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it did not say why"
