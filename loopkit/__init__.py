"""loopkit: a debugger for PyTorch training loops.

`loopkit run train.py` watches the loop that is there; `with loopkit.watch() as run:` does so from Python. These
names are all that is public. Each is fetched when first asked for, so that `loopkit --help` imports no torch.

PYTEST_DONT_REWRITE: under `loopkit run -m pytest` this is imported before pytest is, which would warn of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopkit.batching import batches as batches
    from loopkit.callsite import CallSites as CallSites
    from loopkit.callsite import Site as Site
    from loopkit.checkpoints import Checkpoints as Checkpoints
    from loopkit.checkpoints import PartKind as PartKind
    from loopkit.checkpoints import ReadCheckpoint as ReadCheckpoint
    from loopkit.checkpoints import SavedPart as SavedPart
    from loopkit.checkpoints import file_named as file_named
    from loopkit.checkpoints import part_of as part_of
    from loopkit.checkpoints import saved_parts as saved_parts
    from loopkit.criteria import Criteria as Criteria
    from loopkit.criteriaheard import CriteriaHeard as CriteriaHeard
    from loopkit.criterionreading import BatchReading as BatchReading
    from loopkit.criterionreading import CriterionReading as CriterionReading
    from loopkit.criterionreading import DoorReading as DoorReading
    from loopkit.criterionreading import NearReading as NearReading
    from loopkit.criterionreading import Seen as Seen
    from loopkit.curvelog import CurveLog as CurveLog
    from loopkit.curvereading import CurveKind as CurveKind
    from loopkit.curvereading import CurveReading as CurveReading
    from loopkit.curves import read_curves as read_curves
    from loopkit.door import Door as Door
    from loopkit.draws import Draws as Draws
    from loopkit.effect import Effect as Effect
    from loopkit.errors import LoopkitError as LoopkitError
    from loopkit.errors import PluginError as PluginError
    from loopkit.errors import StopTraining as StopTraining
    from loopkit.errors import UsageError as UsageError
    from loopkit.feeds import Feed as Feed
    from loopkit.feeds import Feeds as Feeds
    from loopkit.finding import Confidence as Confidence
    from loopkit.finding import Finding as Finding
    from loopkit.finding import Place as Place
    from loopkit.finding import Severity as Severity
    from loopkit.finiteness import BadLoss as BadLoss
    from loopkit.finiteness import Finiteness as Finiteness
    from loopkit.habit import Habit as Habit
    from loopkit.hookspecs import API_VERSION as API_VERSION
    from loopkit.hookspecs import hookimpl as hookimpl
    from loopkit.kept import Kept as Kept
    from loopkit.kept import KeptGraphs as KeptGraphs
    from loopkit.ledger import Ledger as Ledger
    from loopkit.levels import AtChance as AtChance
    from loopkit.levels import Level as Level
    from loopkit.levels import Levels as Levels
    from loopkit.levels import at_chance as at_chance
    from loopkit.lineage import Line as Line
    from loopkit.logbook import History as History
    from loopkit.lookups import code_of as code_of
    from loopkit.lookups import functions_around as functions_around
    from loopkit.lookups import keys_read as keys_read
    from loopkit.loop import Loop as Loop
    from loopkit.lossnodes import LossNode as LossNode
    from loopkit.lossnodes import Operation as Operation
    from loopkit.lossnodes import Spread as Spread
    from loopkit.lossnodes import Swapped as Swapped
    from loopkit.lossnodes import UnusedLoss as UnusedLoss
    from loopkit.lossreading import LossReading as LossReading
    from loopkit.lossreading import LossTerm as LossTerm
    from loopkit.lossreading import Padding as Padding
    from loopkit.lossreading import Reach as Reach
    from loopkit.metrics import log as log
    from loopkit.models import Models as Models
    from loopkit.modereading import Draw as Draw
    from loopkit.modereading import Evaluated as Evaluated
    from loopkit.modereading import ForwardReading as ForwardReading
    from loopkit.modereading import FrozenNorm as FrozenNorm
    from loopkit.modereading import ModeChange as ModeChange
    from loopkit.modereading import Recomputed as Recomputed
    from loopkit.modereading import TrainReading as TrainReading
    from loopkit.modes import Modes as Modes
    from loopkit.moves import Move as Move
    from loopkit.moves import Moves as Moves
    from loopkit.moves import StepMoves as StepMoves
    from loopkit.notebook import load_ipython_extension as load_ipython_extension
    from loopkit.notebook import unload_ipython_extension as unload_ipython_extension
    from loopkit.rehearsal import Rehearsal as Rehearsal
    from loopkit.rehearsal import Take as Take
    from loopkit.rehearsal import copied as copied
    from loopkit.rehearsal import tensors as tensors
    from loopkit.replay import Origin as Origin
    from loopkit.replicas import Lapse as Lapse
    from loopkit.replicas import Replicas as Replicas
    from loopkit.reports.report import Report as Report
    from loopkit.reports.report import RuleTold as RuleTold
    from loopkit.reports.writer import ReportWriter as ReportWriter
    from loopkit.row import row_of as row_of
    from loopkit.run import Run as Run
    from loopkit.scaling import Scales as Scales
    from loopkit.schedule import Epochs as Epochs
    from loopkit.schedule import ScheduleReading as ScheduleReading
    from loopkit.schedule import Shape as Shape
    from loopkit.shards import Shard as Shard
    from loopkit.shares import Shares as Shares
    from loopkit.silence import Silence as Silence
    from loopkit.strays import Missed as Missed
    from loopkit.strays import Stray as Stray
    from loopkit.symmetry import Symmetry as Symmetry
    from loopkit.symmetry import Twins as Twins
    from loopkit.trace.recorded import Trace as Trace
    from loopkit.trace.recorded import TracedEvent as TracedEvent
    from loopkit.trace.recorded import TracedRow as TracedRow
    from loopkit.units import LayerUnits as LayerUnits
    from loopkit.units import Units as Units
    from loopkit.update import Clipped as Clipped
    from loopkit.update import ClipReading as ClipReading
    from loopkit.update import Event as Event
    from loopkit.update import Kind as Kind
    from loopkit.update import Leak as Leak
    from loopkit.update import LoaderReading as LoaderReading
    from loopkit.update import Pending as Pending
    from loopkit.update import SchedulerReading as SchedulerReading
    from loopkit.update import StepReading as StepReading
    from loopkit.update import UnscaleReading as UnscaleReading
    from loopkit.update import Update as Update
    from loopkit.update import Wipe as Wipe
    from loopkit.watching import current_run as current_run
    from loopkit.watching import watch as watch
    from loopkit.windows import Window as Window
    from loopkit.windows import Windows as Windows

__version__ = "0.1.0"

_PLACES = {
    "batches": "batching",
    "CallSites": "callsite",
    "Site": "callsite",
    "CriteriaHeard": "criteriaheard",
    "Criteria": "criteria",
    "BatchReading": "criterionreading",
    "CriterionReading": "criterionreading",
    "DoorReading": "criterionreading",
    "NearReading": "criterionreading",
    "Seen": "criterionreading",
    "Checkpoints": "checkpoints",
    "PartKind": "checkpoints",
    "ReadCheckpoint": "checkpoints",
    "SavedPart": "checkpoints",
    "file_named": "checkpoints",
    "part_of": "checkpoints",
    "saved_parts": "checkpoints",
    "CurveLog": "curvelog",
    "CurveKind": "curvereading",
    "CurveReading": "curvereading",
    "read_curves": "curves",
    "Effect": "effect",
    "Door": "door",
    "Draws": "draws",
    "LoopkitError": "errors",
    "PluginError": "errors",
    "StopTraining": "errors",
    "UsageError": "errors",
    "Feed": "feeds",
    "Feeds": "feeds",
    "Confidence": "finding",
    "Finding": "finding",
    "Place": "finding",
    "Severity": "finding",
    "BadLoss": "finiteness",
    "Finiteness": "finiteness",
    "API_VERSION": "hookspecs",
    "hookimpl": "hookspecs",
    "Habit": "habit",
    "History": "logbook",
    "Kept": "kept",
    "KeptGraphs": "kept",
    "Ledger": "ledger",
    "Line": "lineage",
    "code_of": "lookups",
    "functions_around": "lookups",
    "keys_read": "lookups",
    "Loop": "loop",
    "Draw": "modereading",
    "Evaluated": "modereading",
    "ForwardReading": "modereading",
    "FrozenNorm": "modereading",
    "ModeChange": "modereading",
    "Recomputed": "modereading",
    "TrainReading": "modereading",
    "Models": "models",
    "Modes": "modes",
    "Missed": "strays",
    "Move": "moves",
    "Moves": "moves",
    "StepMoves": "moves",
    "Stray": "strays",
    "Rehearsal": "rehearsal",
    "Take": "rehearsal",
    "copied": "rehearsal",
    "tensors": "rehearsal",
    "Origin": "replay",
    "Scales": "scaling",
    "Lapse": "replicas",
    "Replicas": "replicas",
    "Report": "reports.report",
    "RuleTold": "reports.report",
    "ReportWriter": "reports.writer",
    "Run": "run",
    "row_of": "row",
    "Shard": "shards",
    "Shares": "shares",
    "Silence": "silence",
    "Spread": "lossnodes",
    "Swapped": "lossnodes",
    "Epochs": "schedule",
    "ScheduleReading": "schedule",
    "Shape": "schedule",
    "Symmetry": "symmetry",
    "Twins": "symmetry",
    "Clipped": "update",
    "ClipReading": "update",
    "Event": "update",
    "Kind": "update",
    "Leak": "update",
    "LoaderReading": "update",
    "LossNode": "lossnodes",
    "LossReading": "lossreading",
    "LossTerm": "lossreading",
    "Padding": "lossreading",
    "Operation": "lossnodes",
    "Pending": "update",
    "Reach": "lossreading",
    "SchedulerReading": "update",
    "StepReading": "update",
    "UnusedLoss": "lossnodes",
    "Trace": "trace.recorded",
    "TracedEvent": "trace.recorded",
    "TracedRow": "trace.recorded",
    "LayerUnits": "units",
    "Units": "units",
    "UnscaleReading": "update",
    "Update": "update",
    "Wipe": "update",
    "current_run": "watching",
    "load_ipython_extension": "notebook",
    "log": "metrics",
    "unload_ipython_extension": "notebook",
    "AtChance": "levels",
    "Level": "levels",
    "Levels": "levels",
    "at_chance": "levels",
    "watch": "watching",
    "Window": "windows",
    "Windows": "windows",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'loopkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"loopkit.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
