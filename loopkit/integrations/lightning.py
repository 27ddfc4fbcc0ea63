"""`LoopkitCallback` for Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.manager import fetch

if TYPE_CHECKING:
    from loopkit_plugins.integrations.lightning import LoopkitCallback as LoopkitCallback
else:
    LoopkitCallback = fetch("loopkit_plugins.integrations.lightning:LoopkitCallback")
