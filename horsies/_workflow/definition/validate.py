"""A workflow is checked as a whole before anything of it is kept: every problem is found, and all are shown at once.

Each names the workflow, the node and the remedy, and never an argument's value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from itertools import chain, count
from typing import Any

import msgspec

from ..._core.errors import HorsiesError, raise_all
from ..._core.instants import instant, micros_of, positive_span
from ..._core.names import NAME_BYTES, is_name
from ..._declare.app import Horsies
from ..._declare.node import NodeParts, NodeRef, TaskNode
from ..._declare.task import Task
from ..._declare.workflow import Workflow, problems_with_heading
from ..._send.options import TaskSettings
from ..node_ids import MOST_NODES
from .arguments import Report, bind, lowered, problem_of_type, type_of
from .cycles import cycles_in
from .draft import Draft, SuccessCase, WorkflowSpec
from .node_options import good_options, storable_retry
from .spec import NodeSpec, Reference, Spec
from .type_compat import fits, shown

_ADD_FIRST = "pass what wf.task(...) of this builder returned"
_BASE = NAME_BYTES - 25
"""Bytes of a task's name in a node's id; the rest is for numbers."""


def checked(draft: Draft, app: Horsies | None = None, policies: Collection[str] | None = None) -> WorkflowSpec:
    """The workflow that `draft` describes.

    Args:
        draft: how it was declared.
        app: the application it is for; without one its tasks' registration and queues are left for `resolve`.
        policies: the names of the registered retry policies, where they are known.

    Raises:
        HorsiesError: with every problem found.
    """
    check = _Check(draft)
    spec = check.spec()
    if app is not None:
        _, others = _resolved(spec, app, policies)
        check.problems += others
    raise_all(check.problems)
    return spec


def resolve(spec: WorkflowSpec, app: Horsies, policies: Collection[str] | None = None) -> Spec:
    """What is stored of `spec` when `app` starts it.

    Raises:
        HorsiesError: HRS-302 for tasks that are not registered, HRS-014 for queues, HRS-023 for retry policies.
    """
    resolved, problems = _resolved(spec, app, policies)
    raise_all(problems)
    return resolved


def _resolved(spec: WorkflowSpec, app: Horsies, policies: Collection[str] | None) -> tuple[Spec, list[HorsiesError]]:
    problems: list[HorsiesError] = []
    nodes = []
    for node, called, child in zip(spec._spec.nodes, spec._called, spec._children, strict=True):
        report = partial(_add, problems, spec.name, node.node_id)
        inner, others = (None, []) if child is None else _resolved(child, app, policies)
        problems += others
        queue = node.queue or app.queue_of(called if isinstance(called, Task) else None)
        if isinstance(called, Workflow):
            if app.workflows.get(called.name) is not called:
                what = f"workflow {called.name!r} is not registered with the application that this one is for"
                report("HRS-018", what, "declare it with @app.workflow of the same application")
        elif app.tasks.get(called.name) is not called:
            what = f"task {called.name!r} is not registered with the application that the workflow is for"
            report("HRS-302", what, "declare it with @app.task, or register it: app.include(the_task)")
        if queue not in app.queues:
            what = f"the application has no queue {queue!r}"
            report("HRS-014", what, f"its queues: {', '.join(app.queues)}")
        if isinstance(node.retry, str) and policies is not None and node.retry not in policies:
            what = f"retry policy {node.retry!r} is not registered"
            report("HRS-023", what, f"installed: {', '.join(sorted(policies)) or 'none'}")
        nodes.append(msgspec.structs.replace(node, queue=queue, child=inner))
    return msgspec.structs.replace(spec._spec, nodes=tuple(nodes)), problems


def _add(problems: list[HorsiesError], workflow: object, node_id: str | None, code: str, what: str, how: str) -> None:
    place = f"workflow {workflow!r}" + ("" if node_id is None else f", node {node_id!r}")
    problems.append(HorsiesError(code, f"{place}: {what}", [how]))


def _parts_of(node: object) -> NodeParts | None:
    """What was added, if it is a node of the right kind."""
    if not isinstance(node, TaskNode):
        return None
    called = Workflow if node._parts.kind == "workflow" else Task
    return node._parts if isinstance(node._parts.task, called) else None


class _Check:
    """One walk over a draft; `spec` is to be called once."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.problems: list[HorsiesError] = []
        self.ids: list[str] = []

    def spec(self) -> WorkflowSpec:
        """What the draft comes to; with problems it is something else."""
        draft, report = self.draft, self._report
        self.problems += problems_with_heading(draft.name, draft.version, draft.on_error)
        parts = [_parts_of(node) for node in draft.nodes]
        self._name(parts)
        if not parts:
            report("HRS-002", "it has no nodes", "add one with wf.task(my_task.node(...))")
        if len(parts) > MOST_NODES:
            what = f"it has {len(parts):,} nodes, and {MOST_NODES:,} are the most"
            report("HRS-023", what, "put some of them into a subworkflow, or use wf.map")
        specs = [self._node(index, one, parts) for index, one in enumerate(parts)]
        needs = [() if spec is None else spec.needs for spec in specs]
        if parts and all(needs):
            report("HRS-005", "it has no node to begin with: each one waits for another", "let one wait for none")
        for cycle in cycles_in(needs):
            way = " -> ".join(self.ids[index] for index in (*cycle, cycle[0]))
            report("HRS-007", f"its nodes wait for each other: {way}", "let one of them wait for none of the others")
        output, success, optional = self._output(parts), self._success(), self._optional()
        if any(set(case) & set(optional) for case in success):
            report("HRS-012", "a success case has a node that is optional", "leave it out of one of the two")
        spec = Spec(
            name=draft.name,
            version=draft.version,
            nodes=tuple(one for one in specs if one is not None),
            output=output,
            on_error=draft.on_error,
            success=success,
            optional=optional,
            within=draft.within,
        )
        children = tuple(
            self._child(index, one) for index, one in enumerate(parts) if one is not None and specs[index] is not None
        )
        return WorkflowSpec(tuple(one.task for one in parts if one is not None), children, spec)

    def _report(self, code: str, what: str, remedy: str, node_id: str | None = None) -> None:
        _add(self.problems, self.draft.name, node_id, code, what, remedy)

    def _at(self, index: int) -> Report:
        return partial(_add, self.problems, self.draft.name, self.ids[index])

    def _name(self, parts: Sequence[NodeParts | None]) -> None:
        """Give each node its id: its own, or one that nobody has."""
        chosen = [None if one is None or not is_name(one.node_id) else one.node_id for one in parts]
        times_chosen = Counter(chosen)
        taken = set(times_chosen)
        for index, (one, node_id) in enumerate(zip(parts, chosen, strict=True)):
            if node_id is None:
                node_id = _free_id("node" if one is None else one.task.name, index, taken)
                taken.add(node_id)
            self.ids.append(node_id)
        for index, one in enumerate(parts):
            if one is not None and one.node_id is not None and not is_name(one.node_id):
                self._at(index)("HRS-003", "its node_id is no name", "give 1..255 bytes of text without NUL")
        for node_id, times in times_chosen.items():
            if node_id is not None and times > 1:
                self._report("HRS-004", f"{times} nodes have this id", "give each an id of its own", node_id)

    def _node(self, index: int, parts: NodeParts | None, all_parts: Sequence[NodeParts | None]) -> NodeSpec | None:
        report = self._at(index)
        if parts is None:
            self._report_no_node(index, report)
            return None
        arguments = bind(parts, report)
        injected: dict[str, Reference] = {}
        for name, ref in sorted(arguments.injected.items()):
            if (upstream := self._index_of(ref, f"argument {name!r}", report)) is not None:
                injected[name] = Reference(upstream, ref._is_result)
        waits = [self._index_of(ref, "waits_for", report) for ref in parts.waits_for]
        context = self._context(parts, report)
        needs = {one for one in waits if one is not None} | {ref.node for ref in injected.values()} | context
        is_lenient = parts.allow_failed_deps or parts.join is not None
        for name, reference in injected.items():
            source = all_parts[reference.node]
            if is_lenient and not reference.as_result:
                what = (
                    f"argument {name!r} is the value of node {self.ids[reference.node]!r}, which may have none by then"
                )
                report("HRS-008", what, "pass the result, ref.as_result(), to a parameter annotated TaskResult[...]")
            elif source is not None and (
                problem := problem_of_type(
                    parts, name, source, as_result=reference.as_result, is_item=name == arguments.item
                )
            ):
                what, remedy = problem
                report("HRS-024", f"{what} (of node {self.ids[reference.node]!r})", remedy)
        _check_join(parts, len(needs), report)
        given = lowered(parts, arguments.given, report)
        spec = _node_spec(parts, self.ids[index], given, injected, needs, report)
        if self.draft.children[index] is not None:
            return msgspec.structs.replace(spec, arguments={})
        return msgspec.structs.replace(spec, item=arguments.item, context=tuple(sorted(context)))

    def _context(self, parts: NodeParts, report: Report) -> set[int]:
        """The nodes whose results go into the context."""
        found: set[int] = set()
        for ref in parts.context:
            index = self._index_of(ref, "ctx_from", report, "HRS-009")
            if index in found:
                report("HRS-009", f"ctx_from names node {self.ids[index]!r} twice", "name it once")
            elif index is not None and ref._is_result:
                what = f"ctx_from names node {self.ids[index]!r} by its as_result()"
                report("HRS-009", what, "pass the reference itself: what is in a context is a result anyway")
            if index is not None:
                found.add(index)
        if parts.context and (parts.kind != "task" or not parts.task.signature.takes_context):
            what = f"ctx_from needs a task that takes a context, and {parts.callee} takes none here"
            report("HRS-010", what, "give the task's function a first parameter annotated TaskContext")
        return found

    def _report_no_node(self, index: int, report: Report) -> None:
        node = self.draft.nodes[index]
        kind = node._parts.kind if isinstance(node, TaskNode) else "task"
        if kind == "workflow":
            what, how = "what was added is no node of a declared workflow", "add wf.subworkflow(my_workflow.node(...))"
            report("HRS-018", what, how)
        elif isinstance(node, TaskNode) and isinstance(node._parts.task, Workflow):
            report("HRS-023", "what was added is a workflow", "add it with wf.subworkflow(my_workflow.node(...))")
        else:
            report("HRS-023", "what was added is no node of a declared task", "add wf.task(my_task.node(...))")

    def _child(self, index: int, parts: NodeParts) -> WorkflowSpec | None:
        """The workflow that a node is, if that is known; its problems are found as well."""
        around = (*self.draft.within, self.draft.name)
        if parts.kind == "workflow" and parts.task.name in around:
            way = " -> ".join([*around[around.index(parts.task.name) :], parts.task.name])
            self._at(index)("HRS-007", f"the workflow would be a part of itself: {way}", "leave out one of these steps")
        child = self.draft.children[index]
        if child is None:
            return None
        check = _Check(child)
        spec = check.spec()
        self.problems += check.problems
        return spec

    def _index_of(self, ref: object, what: str, report: Report, code: str = "HRS-006") -> int | None:
        """The node that `ref` stands for."""
        if not isinstance(ref, NodeRef):
            report(
                code, f"{what}: what is named is no reference to a node, but of type {type(ref).__name__}", _ADD_FIRST
            )
        elif ref._builder is not self.draft.builder:
            report(code, f"{what}: the node belongs to another workflow, or to another run of this one", _ADD_FIRST)
        elif not 0 <= ref._index < len(self.draft.nodes):
            report(code, f"{what}: there is no such node", _ADD_FIRST)
        else:
            return ref._index
        return None

    def _output(self, parts: Sequence[NodeParts | None]) -> int | None:
        output, returns = self.draft.output, self.draft.returns
        if output is None:
            if not fits(type(None), returns):
                what = f"its function is annotated NodeRef[{shown(returns)}] and returns none"
                self._report("HRS-025", what, "return what wf.task(...) returned, or annotate None")
            return None
        index = self._index_of(output, "its output", self._report, "HRS-011")
        if index is not None and output._is_result:
            self._report("HRS-011", "its output is a node's as_result()", "return the reference itself")
        elif index is not None and (source := parts[index]) is not None and not fits(type_of(source), returns):
            said = "None" if returns is type(None) else f"NodeRef[{shown(returns)}]"
            what = f"its function is annotated {said}, and its output gives {shown(type_of(source))}"
            self._report("HRS-025", what, "annotate the function with what it returns", self.ids[index])
        return index

    def _success(self) -> tuple[tuple[int, ...], ...]:
        cases = []
        for case in self.draft.cases:
            if not isinstance(case, SuccessCase) or not case.refs:
                self._report("HRS-012", "a success case names no nodes", "give SuccessCase(ref, ...)")
                continue
            found = [self._index_of(ref, "a success case", self._report, "HRS-012") for ref in case.refs]
            cases.append(tuple(sorted({index for index in found if index is not None})))
        return tuple(cases)

    def _optional(self) -> tuple[int, ...]:
        found = [self._index_of(ref, "optional", self._report, "HRS-012") for ref in self.draft.optional]
        return tuple(sorted({index for index in found if index is not None}))


def _free_id(task_name: str, index: int, taken: Collection[str | None]) -> str:
    """The id of a node that has not been given one."""
    base = f"{task_name.encode()[:_BASE].decode(errors='ignore')}-{index}"
    others = (f"{base}-{number}" for number in count(2))
    return next(node_id for node_id in chain([base], others) if node_id not in taken)


def _check_join(parts: NodeParts, needs: int, report: Report) -> None:
    if parts.join is None:
        return
    quorum = parts.join.quorum
    if type(quorum) is not int or not 1 <= quorum <= needs:
        what = f"it joins {quorum!r} of the {needs} nodes that it waits for"
        report("HRS-013", what, "a quorum is a whole number, from 1 to as many as there are")
    if parts.allow_failed_deps:
        what = "allow_failed_deps() waits for all, and join_any() or join_quorum() does not"
        report("HRS-013", what, "leave out one of them; without allow_failed_deps() those that fail do no harm either")
    if type(parts.join.cancel_losers) is not bool:
        report("HRS-013", "cancel_losers is neither True nor False", "leave it out to let the others run")


def _node_spec(
    parts: NodeParts,
    node_id: str,
    arguments: dict[str, Any],
    injected: dict[str, Reference],
    needs: set[int],
    report: Report,
) -> NodeSpec:
    options = good_options(parts.options, report)
    settings = parts.task.settings if isinstance(parts.task, Task) else TaskSettings()
    given = (options.timeout, options.retry, options.priority)
    if parts.kind == "workflow" and any(option is not None for option in given):
        what = "a subworkflow has no timeout, retry or priority of its own"
        report("HRS-023", what, "give it to the nodes inside; good_until() is the deadline of all of it")
    span = settings.timeout if options.timeout is None else positive_span(options.timeout)
    timeout = None if span is None else span // timedelta(microseconds=1)
    return NodeSpec(
        node_id=node_id,
        task_name=parts.task.name,
        queue=options.queue or settings.queue or "",
        priority=settings.priority if options.priority is None else options.priority,
        arguments=arguments,
        injected=injected,
        needs=tuple(sorted(needs)),
        join=0 if parts.join is None else parts.join.quorum,
        allow_failed_deps=parts.allow_failed_deps,
        cancel_losers=parts.join is not None and parts.join.cancel_losers,
        good_until=None if options.good_until is None else micros_of(instant(options.good_until)),
        timeout=timeout,
        retry=storable_retry(options.retry, report),
        kind=parts.kind,
    )
