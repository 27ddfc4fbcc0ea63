"""Whether a plugin fits this loopkit, and whether what it answers is a finding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopkit import hookspecs
from loopkit.errors import PluginError, did_you_mean
from loopkit.finding import Confidence, Finding, Place, Severity

_MARK = f"{hookspecs.PROJECT}_impl"
_SPECS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")
}


def check_version(plugin: object) -> None:
    """Refuse a plugin that was made for a later set of hooks.

    Raises:
        PluginError: its `api_version` is no number, or a later one than ours.
    """
    version = getattr(plugin, "api_version", hookspecs.API_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PluginError(f"its api_version is {version!r}, and should be a number, such as {hookspecs.API_VERSION}")
    if version > hookspecs.API_VERSION:
        raise PluginError(
            f"it is made for version {version} of the plugin API, and this loopkit has version "
            f"{hookspecs.API_VERSION}: upgrade loopkit, or install an older version of the plugin"
        )


def hooks_of(plugin: object) -> dict[str, str]:
    """The hook that each marked method of a plugin implements, by the name of the method.

    Raises:
        PluginError: it implements none, one that does not exist, as a wrapper, or with an argument it does not have.
    """
    marked = {name: options for name in dir(plugin) if (options := _options(plugin, name)) is not None}
    if not marked:
        raise PluginError("it has no method marked @loopkit.hookimpl")
    hooks = {}
    for name, options in marked.items():
        hook = hooks[name] = options.get("specname") or name
        if hook in _SPECS:
            _check_arguments(hook, getattr(plugin, name))
        elif not options.get("optionalhook"):
            raise PluginError(f"there is no hook {hook!r}{did_you_mean(hook, _SPECS)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{name} is a hook wrapper; loopkit calls plain implementations only")
    return hooks


def _options(plugin: object, name: str) -> dict[str, Any] | None:
    """The marks of a method, found without running a property."""
    options = getattr(inspect.getattr_static(plugin, name, None), _MARK, None)
    return options if isinstance(options, dict) else None


def _check_arguments(hook: str, function: Callable[..., Any]) -> None:
    known = list(inspect.signature(_SPECS[hook]).parameters)
    for argument in inspect.signature(function).parameters.values():
        positional = argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD)
        if positional and argument.default is argument.empty and argument.name not in known:
            raise PluginError(
                f"{hook} has no argument {argument.name!r}{did_you_mean(argument.name, known)} "
                f"it has: {', '.join(known)}"
            )


def findings(answer: Any) -> Sequence[Finding]:
    """What a hook answered, as a sequence; a generator runs here.

    Raises:
        PluginError: it is nothing that a hook may answer.
    """
    if isinstance(answer, Finding):
        found: tuple[Any, ...] = (answer,)
    else:
        try:
            each = iter(answer)
        except TypeError:
            raise PluginError(_no_answer(answer)) from None
        found = tuple(each)
    for finding in found:
        check_finding(finding)
    return found


def _no_answer(answer: object) -> str:
    return f"a hook answers with Findings or None, not with {type(answer).__name__}"


def check_finding(finding: object) -> None:
    """Refuse what a sink could not show.

    Raises:
        PluginError: it is no Finding, or one of its fields is of another kind than it should be.
    """
    if not isinstance(finding, Finding):
        raise PluginError(_no_answer(finding))
    wanted: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("rule", "seen", "why", "remedy", "subject"), str),
        "severity": Severity,
        "confidence": Confidence,
        "place": (Place, type(None)),
        "step": (int, type(None)),
        "rank": (int, type(None)),
        "count": int,
    }
    for name, kind in wanted.items():
        if not isinstance(getattr(finding, name), kind):
            raise PluginError(_wrong(finding, name, getattr(finding, name), _kind_named(kind)))
    if not finding.rule:
        raise PluginError("a Finding has an empty rule")
    for place in [*finding.places.values(), *([finding.place] if finding.place else [])]:
        if not (isinstance(place, Place) and isinstance(place.file, str) and isinstance(place.line, int)):
            raise PluginError(_wrong(finding, "places", place, "Place(file, line)"))
    _check_names(finding, "places", finding.places)
    _check_names(finding, "evidence", finding.evidence)


def _check_names(finding: Finding, name: str, values: Mapping[Any, Any]) -> None:
    for key in values:
        if not isinstance(key, str):
            raise PluginError(_wrong(finding, f"a name in {name}", key, "str"))


def _kind_named(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("None" if each is type(None) else each.__name__ for each in kinds)


def _wrong(finding: Finding, name: str, value: object, wanted: str) -> str:
    return f"{name} of a Finding of {finding.rule!r} is {type(value).__name__}, and should be {wanted}"
