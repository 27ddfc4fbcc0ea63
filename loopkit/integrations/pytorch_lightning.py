"""`LoopkitCallback` for Lightning under its older name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.manager import fetch

if TYPE_CHECKING:
    from loopkit_plugins.integrations.pytorch_lightning import LoopkitCallback as LoopkitCallback
else:
    LoopkitCallback = fetch("loopkit_plugins.integrations.pytorch_lightning:LoopkitCallback")
