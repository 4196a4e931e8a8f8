"""What goes wrong before any host is asked."""

from __future__ import annotations


class DeployError(Exception):
    """Nothing can be deployed. The message is one line and says what to do about it."""
