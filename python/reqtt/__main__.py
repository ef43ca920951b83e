"""`python -m reqtt` is the command `reqtt`."""

from __future__ import annotations

import sys

from reqtt.cli import main

sys.exit(main())
