"""The call site: which line of the user's own code led here.

A torch call may lie under any depth of torch, framework and library frames. The *place* of a call is the
innermost frame outside torch, loopkit, the standard library and installed packages. Where the loop belongs
to a framework, the framework's own innermost line stands beside it.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from types import CodeType, FrameType

from loopkit.finding import Place

SITE_AT = 32
"""The bit from which a packed event (`signature.py`) holds its site."""
_TRANSPARENT, _USER, _INSTALLED, _BOTTOM = range(4)
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_RUNNER = f"{_OURS}script.py"  # below its frame there is only the command line


class Site:
    """A place in the user's program, made once for each chain of calls and compared by identity.

    Attributes:
        place: the user's innermost line; the framework's where no frame is the user's.
        chain: the user's frames, innermost first: two calls through one helper differ here.
        framework: the innermost installed, non-torch frame below the user's, or None.
        number: counts sites of a run; stands for the site in a signature.
        spot: stands for the place alone, which several sites may share.
        bits: the number, where a packed event holds it.
    """

    __slots__ = ("_codes", "bits", "chain", "framework", "number", "place", "spot")

    def __init__(
        self,
        number: int,
        spot: int,
        place: Place,
        chain: tuple[Place, ...],
        framework: Place | None,
        codes: tuple[CodeType, ...],
    ) -> None:
        self.number = number
        self.spot = spot
        self.bits = number + 1 << SITE_AT
        self.place = place
        self.chain = chain
        self.framework = framework
        self._codes = codes  # kept, so that the ids in the cache's keys stay theirs

    def __repr__(self) -> str:
        return f"Site({self.place.file}:{self.place.line})"


class CallSites:
    """Finds and remembers call sites. `here()` costs about 0.1 µs a frame of stack."""

    def __init__(self) -> None:
        self._verdicts: dict[str, int] = {}
        self._sites: dict[tuple[int, ...], Site] = {}
        self._brief: dict[tuple[int, ...], Site] = {}
        self._spots: dict[Place, int] = {}
        self._user_folders: list[str] = []
        self._transparent = [*_folders_of_interpreter(), _folder_of("torch"), _OURS]
        self._installed = _folders_of_packages()

    def add_user_folder(self, folder: str) -> None:
        """Code under `folder` is the user's even if it is installed (a package run with `-m`)."""
        self._user_folders.append(os.path.join(os.path.abspath(folder), ""))
        self._verdicts.clear()

    def here(self, *, brief: bool = False) -> Site:
        """The call site of the running torch call.

        With `brief` the chain of calls is that of the first time this line was met: enough to name the line.
        """
        verdicts = self._verdicts
        key: list[int] = []
        known: tuple[int, ...] = ()
        # Here, the recorder, the tap and the wrapper, or `listen` before it, are not worth a look.
        start = sys._getframe(4)
        frame: FrameType | None = start
        while frame is not None:
            code = frame.f_code
            try:
                verdict = verdicts[code.co_filename]
            except KeyError:
                verdict = verdicts[code.co_filename] = self._judge(code.co_filename)
            if verdict == _TRANSPARENT:
                pass
            elif verdict == _USER or not key:  # of installed frames only the innermost counts
                key += (id(code), frame.f_lasti)
                if brief and verdict == _USER:
                    found = self._brief.get(tuple(key))
                    if found is not None:
                        return found
                    brief = False
                    known = tuple(key)
            elif verdict == _BOTTOM:
                break
            frame = frame.f_back
        found = self._sites.get(tuple(key)) or self._make(tuple(key), start)
        if known:
            self._brief[known] = found
        return found

    def _make(self, key: tuple[int, ...], start: FrameType) -> Site:
        chain: list[Place] = []
        codes: list[CodeType] = []
        framework: Place | None = None
        steps: list[Place] = []
        frame: FrameType | None = start
        while frame is not None:
            verdict = self._verdicts.get(frame.f_code.co_filename, _BOTTOM)
            if verdict == _BOTTOM:
                break
            if verdict == _USER:
                codes.append(frame.f_code)
                # The update rule of a user's own optimizer is not the line that called it.
                (steps if not chain and _is_optimizer_step(frame) else chain).append(_place(frame))
            elif verdict == _INSTALLED and framework is None and not codes:
                codes.append(frame.f_code)
                framework = _place(frame)
            frame = frame.f_back
        chain = chain or steps
        place = chain[0] if chain else framework or _place(start)
        spot = self._spots.setdefault(place, len(self._spots))
        made = Site(len(self._sites), spot, place, tuple(chain), framework, tuple(codes))
        self._sites[key] = made
        return made

    def _judge(self, filename: str) -> int:
        if filename.startswith("<"):
            generated = ("<frozen", "<eval_with_key>", "<torch", "<__array", "<attrs", "<decorator")
            return _TRANSPARENT if filename.startswith(generated) else _USER
        path = os.path.abspath(filename)
        if path == _RUNNER:
            return _BOTTOM
        if any(path.startswith(folder) for folder in self._user_folders):
            return _USER
        # Packages come first: site-packages lies inside the standard library's folder.
        if path.startswith((self._transparent[-2], self._transparent[-1])):
            return _TRANSPARENT
        if any(path.startswith(folder) for folder in self._installed) or _in_packages(path):
            return _INSTALLED
        return _TRANSPARENT if any(path.startswith(folder) for folder in self._transparent) else _USER


def _in_packages(path: str) -> bool:
    return f"{os.sep}site-packages{os.sep}" in path or f"{os.sep}dist-packages{os.sep}" in path


def _place(frame: FrameType) -> Place:
    name = frame.f_code.co_filename
    return Place(name if name.startswith("<") else os.path.abspath(name), frame.f_lineno, frame.f_code.co_qualname)


def _is_optimizer_step(frame: FrameType) -> bool:
    if frame.f_code.co_name != "step":
        return False
    owner = frame.f_locals.get("self")
    return any(
        cls.__name__ == "Optimizer" and cls.__module__.startswith("torch.optim") for cls in type(owner).__mro__
    )


def _folder_of(package: str) -> str:
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None) or f"{os.sep}nowhere{os.sep}x"
    return os.path.join(os.path.dirname(os.path.abspath(file)), "")


def _folders_of_interpreter() -> list[str]:
    paths = sysconfig.get_paths()
    return [os.path.join(os.path.abspath(paths[name]), "") for name in ("stdlib", "platstdlib")]


def _folders_of_packages() -> list[str]:
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()]
    return [os.path.join(os.path.abspath(folder), "") for folder in folders]
