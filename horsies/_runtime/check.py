"""What can be known of an application without its database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.errors import HorsiesError, raise_all
from .._core.urls import scheme_of
from .._declare.app import Horsies
from .._declare.placement import Place, address_of
from .._declare.schedule import problems_with_call
from .._declare.task import Task
from .._declare.workflow import Workflow
from .._workflow.definition.builder import built
from .plugins import Plugins, chosen, load_plugins


def check(app: Horsies) -> Plugins:
    """Load the plugins and see that everything the application names is there.

    A workflow is built and checked if its function can be called without arguments; any other is checked when it is
    started, because only then is it known what it consists of.

    Raises:
        HorsiesError: with every problem found.
    """
    plugins = load_plugins(app.plugins, app.block_plugins)
    problems = []
    wanted = [
        (plugins.brokers, scheme_of(app.config.url) or "", "broker for URL scheme"),
        (plugins.serializers, app.config.serializer, "serializer"),
        *(
            (plugins.retry_policies, task.settings.retry, f"retry policy of task {task.name!r}")
            for task in app.tasks.values()
            if isinstance(task.settings.retry, str)
        ),
    ]
    for offered, name, kind in wanted:
        try:
            chosen(offered, name, kind)
        except HorsiesError as error:
            problems.append(error)
    serializer = plugins.serializers.get(app.config.serializer)
    if serializer is not None:
        problems += [
            HorsiesError("HRS-205", f"schedule {schedule.name!r}: {what}")
            for schedule in app.schedules.values()
            for what in problems_with_call(schedule, serializer, app.queues, plugins.retry_policies)
        ]
    problems += [problem for task in app.tasks.values() if (problem := _lost_to_processes(task)) is not None]
    for workflow in app.workflows.values():
        problems += _problems_with_workflow(workflow, app, plugins)
    raise_all(problems)
    return plugins


def _problems_with_workflow(workflow: Workflow[Any, Any], app: Horsies, plugins: Plugins) -> Sequence[HorsiesError]:
    if any(one.default is one.empty for one in workflow.signature.parameters.parameters.values()):
        return ()
    try:
        built(workflow, app, (), {}, plugins.retry_policies)
    except HorsiesError as error:
        return error.problems
    except Exception as error:  # the workflow's own function
        what = f"workflow {workflow.name!r} cannot be built: its function raises {type(error).__name__}"
        return [HorsiesError("HRS-023", what, ["let it add nodes, and leave the work to their tasks"])]
    return ()


def _lost_to_processes(task: Task[Any, Any]) -> HorsiesError | None:
    """HRS-102 for a task whose process would find something else under its name."""
    if task.place is not Place.PROCESS:
        return None
    address = address_of(task.fn)
    assert address is not None, "the declaration has seen to it"
    try:
        found = address.find()
    except (ImportError, AttributeError):
        found = None
    if found is task.fn or (isinstance(found, Task) and found.fn is task.fn):
        return None
    return HorsiesError(
        "HRS-102",
        f"task {task.name!r} runs in a process, which looks for it at {address.module}.{address.qualname} and finds "
        "something else",
        ["leave the name to the function that was declared, and let no other decorator stand above the task's"],
    )
