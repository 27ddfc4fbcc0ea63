"""`%load_ext loopkit`, and then `%%loopkit` at the top of a cell watches what the cell trains."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any, NoReturn

from loopkit.door import Door
from loopkit.errors import LoopkitError, UsageError


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython for `%load_ext loopkit`."""

    def magic(line: str, cell: str) -> None:
        """Run the cell, watched: `%%loopkit [--select RULES] [--ignore RULES] [--probe]`, rules by commas."""
        try:
            door = Door(**_options(line))
        except LoopkitError as error:
            print(f"loopkit: {error}", file=sys.stderr)
            return
        door.open()
        failure: BaseException | None = None
        try:
            result = shell.run_cell(_body(line, cell))  # which shows the cell's own exception, and raises none
            failure = result.error_before_exec or result.error_in_exec
        except BaseException as error:
            failure = error
            raise
        finally:
            door.close(failure)

    shell.register_magic_function(magic, magic_kind="cell", magic_name="loopkit")


def unload_ipython_extension(shell: Any) -> None:
    """Called by IPython for `%unload_ext loopkit`."""
    shell.magics_manager.magics["cell"].pop("loopkit", None)


def _body(line: str, cell: str) -> str:
    """The cell with a line in the magic's place, so that lines have the numbers that the user sees."""
    another_magic = cell.lstrip().startswith("%%")
    return cell if another_magic else f"# %%loopkit {line}".rstrip() + f"\n{cell}"


def _options(line: str) -> dict[str, Any]:
    """What stands behind `%%loopkit`."""
    parser = _Parser(prog="%%loopkit", add_help=False, allow_abbrev=False)
    parser.add_argument("--select", type=_names)
    parser.add_argument("--ignore", type=_names, default=[])
    parser.add_argument("--probe", action="store_true")
    try:
        words = shlex.split(line)
    except ValueError as error:
        parser.error(str(error))
    return vars(parser.parse_args(words))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Parser(argparse.ArgumentParser):
    """Raises where its parent would end the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        raise UsageError(f"%%loopkit: {message}; it takes --select RULES, --ignore RULES and --probe")
