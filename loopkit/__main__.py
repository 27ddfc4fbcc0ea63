"""`python -m loopkit`, which launchers such as torchrun use."""

from __future__ import annotations

import sys

from loopkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
