"""Brings one wheel to many hosts: `python3 -m deploy --hosts hosts.toml`, from the checkout.

It has two halves, both of the standard library alone. This one runs here: it reads the list of hosts, builds
the wheel or takes one, and opens one SSH session for each host. `deploy.host` is sent through that session,
together with the wheel, as one zip application. It decides everything on the host, so a lost connection
leaves no host halfway: it goes on to a new interface that is up, or back to the old one.
"""

from __future__ import annotations
