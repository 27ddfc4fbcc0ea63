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
_SKIPPED = 3  # `here`, the recorder and the wrapper or listener that called it are not worth a look
_frame = sys._getframe
_Step = tuple[int, CodeType, int]  # at which depth which code stood at which instruction
_Key = tuple[tuple[int, int], ...]
_CALLS_PLUGINS = "loopkit.manager"
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
    """Finds and remembers call sites.

    A walk costs about 0.1 µs a frame of stack. So it is first tried whether a call came from where the last of its
    kind came from: the same instructions at the same depths.

    Attributes:
        user_folders: code under them is the user's even if it is installed.
    """

    def __init__(self) -> None:
        self._verdicts: dict[str, int] = {}
        self._sites: dict[_Key, Site] = {}
        self._brief: dict[_Key, Site] = {}
        self._spots: dict[Place, int] = {}
        self._last: dict[int, tuple[int, CodeType, int, list[_Step], Site]] = {}
        self.user_folders: list[str] = []
        self._transparent = [*_folders_of_interpreter(), _folder_of("torch"), _OURS]
        self._installed = _folders_of_packages()

    def add_user_folder(self, folder: str) -> None:
        """Code under `folder` is the user's even if it is installed (a package run with `-m`)."""
        self.user_folders.append(os.path.join(os.path.abspath(folder), ""))
        self._verdicts.clear()
        self._last.clear()

    def lines(self) -> dict[str, set[int]]:
        """The user's files that a call came from or through, and their lines."""
        found: dict[str, set[int]] = {}
        for made in self._sites.values():
            for place in made.chain:
                found.setdefault(place.file, set()).add(place.line)
        return found

    def here(self, kind: int, *, brief: bool = False) -> Site:
        """The call site of the running torch call; `kind` stands for what it does.

        With `brief` the chain of calls is that of the first time this line was met: enough to name the line.
        """
        last = self._last.get(kind)
        if last is not None:
            depth, code, at, others, known = last  # the innermost step by itself: with `brief` it is the only one
            try:
                frame = _frame(depth)
                if frame.f_code is code and frame.f_lasti == at:
                    if not others:
                        return known
                    for depth, code, at in others:
                        frame = _frame(depth)
                        if frame.f_code is not code or frame.f_lasti != at:
                            break
                    else:
                        return known
            except ValueError:
                pass  # the stack is less deep now
        start = sys._getframe(_SKIPPED)
        steps, framework = self._walk(start, brief)
        found = self._site(steps, start, brief)
        if (
            steps and not framework
        ):  # whose innermost line counts too, and several may lie behind one line of the user's
            self._last[kind] = *steps[0], steps[1:], found
        return found

    def outside_plugins(self) -> Place | None:
        """The user's innermost line below the plugin that is being called; None where no frame is the user's."""
        return self.below_plugins()[0]

    def below_plugins(self) -> tuple[Place | None, Place | None]:
        """The user's innermost line below the plugin that is being called, and the framework's innermost beneath
        that; None for what there is none of.
        """
        found: Place | None = None
        framework: Place | None = None
        frame: FrameType | None = _frame(1)
        while frame is not None:
            name = frame.f_code.co_filename
            verdict = self._verdicts.get(name)
            if verdict is None:
                verdict = self._verdicts[name] = self._judge(name)
            if verdict == _BOTTOM:
                break
            if frame.f_globals.get("__name__") == _CALLS_PLUGINS:
                found = framework = None  # what lies above was the plugin's
            elif verdict == _USER and found is None and not _is_optimizer_step(frame):
                found = _place(frame)
            elif verdict == _INSTALLED and found is None and framework is None:
                framework = _place(frame)
            frame = frame.f_back
        return found, framework

    def _site(self, steps: list[_Step], start: FrameType, brief: bool) -> Site:
        key = tuple([(id(code), at) for _, code, at in steps])
        known = self._brief if brief else self._sites
        found = known.get(key)
        if found is None and brief:
            found = self._brief[key] = self._site(self._walk(start, brief=False)[0], start, brief=False)
        return found or self._make(key, steps, start)

    def _walk(self, start: FrameType, brief: bool) -> tuple[list[_Step], bool]:
        """The frames that make a call site, up to the user's innermost if `brief`; whether one is a framework's."""
        steps: list[_Step] = []
        framework = False
        frame: FrameType | None = start
        depth = _SKIPPED
        while frame is not None:
            code = frame.f_code
            verdict = self._verdicts.get(code.co_filename)
            if verdict is None:
                verdict = self._verdicts[code.co_filename] = self._judge(code.co_filename)
            # Of installed frames only the innermost counts. The last of all tells how deep the stack was.
            innermost = verdict == _INSTALLED and not steps
            if verdict in (_USER, _BOTTOM) or innermost or frame.f_back is None:
                steps.append((depth, code, frame.f_lasti))
                framework = framework or innermost
                if verdict == _BOTTOM or (brief and verdict == _USER):
                    break
            frame, depth = frame.f_back, depth + 1
        return steps, framework

    def _make(self, key: _Key, steps: list[_Step], start: FrameType) -> Site:
        chain: list[Place] = []
        rules: list[Place] = []
        framework: Place | None = None
        frame: FrameType | None = start
        while frame is not None:
            verdict = self._verdicts.get(frame.f_code.co_filename, _BOTTOM)
            if verdict == _BOTTOM:
                break
            if verdict == _USER:
                # The update rule of a user's own optimizer is not the line that called it.
                (rules if not chain and _is_optimizer_step(frame) else chain).append(_place(frame))
            elif verdict == _INSTALLED and framework is None and not chain and not rules:
                framework = _place(frame)
            frame = frame.f_back
        chain = chain or rules
        place = chain[0] if chain else framework or _place(start)
        spot = self._spots.setdefault(place, len(self._spots))
        codes = tuple([code for _, code, _ in steps])
        made = self._sites[key] = Site(len(self._sites), spot, place, tuple(chain), framework, codes)
        return made

    def _judge(self, filename: str) -> int:
        if filename.startswith("<"):
            generated = ("<frozen", "<eval_with_key>", "<torch", "<__array", "<attrs", "<decorator")
            return _TRANSPARENT if filename.startswith(generated) else _USER
        path = os.path.abspath(filename)
        if path == _RUNNER:
            return _BOTTOM
        if any(path.startswith(folder) for folder in self.user_folders):
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
