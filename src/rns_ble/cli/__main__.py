"""`python -m rns_ble.cli`: the command line without the console script."""

from __future__ import annotations

import sys

from rns_ble.cli import main

sys.exit(main())
