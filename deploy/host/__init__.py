"""The half that runs on a host. It arrives as one zip application, together with the wheel.

1. Nothing is changed before the way back is there: each package that pip is going to replace is kept.
2. Whatever fails after that, a bug of this program as well, leads back, and the old interface is up again.
3. It needs no connection to end well: nobody listens any more, and it goes on.
"""

from __future__ import annotations
