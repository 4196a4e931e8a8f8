"""What a command raises when a person can put it right."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Iterable


class CommandError(Exception):
    """The command can't do what was asked. The message is one line and says what to do about it."""

    exit_code = 1


class UsageError(CommandError):
    """The arguments can't be meant like this."""

    exit_code = 2


def require(packages: Iterable[str], *, extra: str) -> None:
    """Raise `CommandError` unless all these packages are installed; says which extra brings them."""
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        # The shell's own pip, where there is one, belongs to another environment most of the time.
        pip = f"{shlex.quote(sys.executable)} -m pip"
        raise CommandError(f"{' and '.join(missing)} {verb} not installed: {pip} install 'rns-ble[{extra}]'")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # sys.modules says that it must not be imported
        return False
