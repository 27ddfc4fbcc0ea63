"""Checkpoint files: written so that there is always a whole one, and read without running code from them."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from loopkit import LoopkitError

FORMAT = "loopkit-checkpoint"
SCHEMA = 1
BEST = "best.pt"
_LAST = re.compile(r"step-(\d+)\.pt")
_TEMPORARY = ".writing"


class CheckpointError(LoopkitError):
    """A checkpoint that cannot be written, read, or put into these objects."""


def last_name(step: int) -> str:
    """The file name of the checkpoint after `step` executed optimizer steps."""
    return f"step-{step:08d}.pt"


def steps_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of steps in a folder, the newest first, whole or not."""
    found = [path for path in Path(folder).glob("step-*.pt") if _LAST.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]), reverse=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint: until the new file is whole and on the disk, what bore the name before stays.

    Raises:
        OSError: it cannot be written, as on a full disk. The file that was there is untouched.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            try:
                torch.save({"format": FORMAT, "schema": SCHEMA, **content}, file)
            except RuntimeError as error:  # torch's own, where the file could not take more
                raise OSError(str(error)) from error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Without this a crash of the machine may undo the renaming."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # there are no folders to open on Windows
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leavings(folder: Path) -> None:
    """Remove what a killed process had not finished writing."""
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds: plain containers, numbers and tensors, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is torn, or not one of loopkit's.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(name) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{name} is damaged at {broken}: use an older checkpoint")
        content = torch.load(name, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {name}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:
        raise CheckpointError(f"{name} is no whole checkpoint ({error}): use an older one") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{name} was not written by loopkit's Checkpoint: load it as its own program does")
    if content.get("schema") != SCHEMA:
        raise CheckpointError(f"{name} has schema {content.get('schema')}, this loopkit reads {SCHEMA}")
    return content


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a folder that is whole; None when there is none. Torn ones are named on stderr."""
    for path in steps_in(folder):
        try:
            load(path)
        except CheckpointError as error:
            sys.stderr.write(f"loopkit: left out: {error}\n")
        else:
            return path
    return None
