"""`LoopkitHandler` for Ignite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.manager import fetch

if TYPE_CHECKING:
    from loopkit_plugins.integrations.ignite import LoopkitHandler as LoopkitHandler
else:
    LoopkitHandler = fetch("loopkit_plugins.integrations.ignite:LoopkitHandler")
