"""The arguments of one node: which of them are given, which come from other nodes, and what is wrong with either."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..._declare.node import NodeParts, NodeRef, TaskNode
from ..._payload.lowering import CodecError
from ..._payload.result_argument import value_of_result
from ...abc import Plain
from .type_compat import fits, result_fits, shown

Report = Callable[[str, str, str], None]
"""Takes a problem: its code, what is wrong, and the remedy."""


@dataclass(slots=True)
class Arguments:
    """The arguments of a node by the names of its task's parameters."""

    given: dict[str, Any] = field(default_factory=dict)
    injected: dict[str, Any] = field(default_factory=dict)
    """What should be a `NodeRef`, and has to be seen to be one."""
    item: str | None = None
    """Of a map: the parameter that takes an item."""


def bind(parts: NodeParts, report: Report) -> Arguments:
    """Which parameter gets what. Reports HRS-019 for what fits none, HRS-020 for too few, HRS-021 for too many."""
    parameters = parts.task.signature.parameters.parameters
    by_place = [name for name, one in parameters.items() if one.kind is not one.KEYWORD_ONLY]
    by_name = {name for name, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY}
    takes = f"{parts.callee} takes {', '.join(parameters) or 'no arguments'}"
    found = Arguments()

    def put(name: str, value: Any) -> None:
        (found.injected if isinstance(value, NodeRef) else found.given)[name] = value

    if len(parts.args) > len(by_place):
        what = f"it has {len(parts.args)} positional arguments, and there is room for {len(by_place)}"
        report("HRS-019", what, takes)
    for name, value in zip(by_place, parts.args, strict=False):
        put(name, value)
    for name, value in (parts.kwargs or {}).items():
        if name not in by_name:
            report("HRS-019", f"there is no parameter {reprlib.repr(name)} to give by name", takes)
        elif name in found.given or name in found.injected:
            report("HRS-019", f"argument {name!r} is given by place and by name", "give it once")
        else:
            put(name, value)
    for injected, ref in parts.injected:
        if not isinstance(injected, str) or injected not in parameters:
            report("HRS-019", f"there is no parameter {reprlib.repr(injected)} for arg_from", takes)
        elif injected in found.given or injected in found.injected:
            report("HRS-021", f"argument {injected!r} is given and injected by arg_from, or twice", "leave out one")
        else:
            found.injected[injected] = ref.as_result() if isinstance(ref, NodeRef) else ref
    if parts.kind == "map":
        _put_item(parts, found, report)
    _fill(parts, found, report)
    return found


def _put_item(parts: NodeParts, found: Arguments, report: Report) -> None:
    """Have the first parameter that has no argument take the items."""
    names = parts.task.signature.parameters.parameters
    found.item = next((name for name in names if name not in found.given and name not in found.injected), None)
    if found.item is None:
        report("HRS-021", "all parameters have arguments, and none is left for the items", "leave one of them out")
    else:
        found.injected[found.item] = parts.over


def _fill(parts: NodeParts, found: Arguments, report: Report) -> None:
    """Put in the defaults."""
    missing = []
    for name, parameter in parts.task.signature.parameters.parameters.items():
        if name not in found.given and name not in found.injected:
            if parameter.default is parameter.empty:
                missing.append(repr(name))
            else:
                found.given[name] = parameter.default
    if missing:
        what = f"argument{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing"
        report("HRS-020", what, "pass each to node(...) or set_input(...), or name a node for it with arg_from(...)")


def lowered(parts: NodeParts, given: dict[str, Any], report: Report) -> dict[str, Plain]:
    """The given arguments in plain form. Reports HRS-022 for each that does not fit."""
    plain: dict[str, Plain] = {}
    for name in sorted(given):
        value = given[name]
        if isinstance(value, TaskNode):
            what = f"argument {name!r} is a TaskNode, which has no value"
            report("HRS-008", what, "add it first, and pass what wf.task(...) returns")
        elif _holds_a_reference(value):
            what = f"argument {name!r} has a reference to a node inside"
            report("HRS-008", what, "a reference can only be a whole argument: take one argument for each")
        else:
            try:
                plain[name] = parts.task.signature.codecs[name].lower(value)
            except CodecError as error:
                takes = f"it takes {shown(parts.task.signature.annotations[name])}"
                report("HRS-022", f"argument {name!r}: {error}", takes)
    return plain


def _holds_a_reference(value: object) -> bool:
    """Whether `value` is a collection with a node in it, as one who means to pass several might write."""
    items = list(value.values()) if type(value) is dict else value
    return isinstance(items, (list, tuple, set, frozenset)) and any(
        isinstance(item, (NodeRef, TaskNode)) for item in items
    )


def type_of(parts: NodeParts) -> Any:
    """The type of a node's value, as far as annotations tell."""
    returns = parts.task.signature.returns
    return list[returns] if parts.kind == "map" else returns  # type: ignore[valid-type]  # a value, not a name


def problem_of_type(
    parts: NodeParts, name: str, upstream: NodeParts, *, as_result: bool, is_item: bool
) -> tuple[str, str] | None:
    """What is wrong with the type of an argument that comes from a node, and the remedy."""
    given, wanted = type_of(upstream), parts.task.signature.annotations[name]
    if is_item:
        wanted = list[wanted]  # type: ignore[valid-type]  # a value, not a name
    if as_result:
        if result_fits(given, wanted):
            return None
        what = f"argument {name!r} takes {shown(wanted)}, and gets the result of a node that gives {shown(given)}"
        return what, f"annotate the parameter TaskResult[{shown(given)}]"
    if value_of_result(wanted) is None and fits(given, wanted):
        return None
    what = f"argument {name!r} takes {shown(wanted)}, and gets {shown(given)}"
    if value_of_result(wanted) is None:
        return what, "let one task return what the other takes"
    return what, "pass the result, ref.as_result(), and not the value"
