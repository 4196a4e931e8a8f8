"""What a command raises when a person can put it right."""

from __future__ import annotations

import sys
from collections.abc import Iterable


class CommandError(Exception):
    """The command can't do what was asked. The message is one line and says what to do about it."""

    exit_code = 1


class UsageError(CommandError):
    """The arguments can't be meant like this."""

    exit_code = 2


def require(packages: Iterable[str], *, extra: str) -> None:
    """Raise `CommandError` unless all these packages are installed; says how the extra that brings them is
    installed.
    """
    from rns_ble.cli.rnsd_python import how_to_install, is_installed  # noqa: PLC0415  (not for every command)

    missing = [package for package in packages if not is_installed(package)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        how = how_to_install(sys.executable, extra, again=True)
        raise CommandError(f"{' and '.join(missing)} {verb} not installed: {how}")
