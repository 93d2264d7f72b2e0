"""From a node of a workflow to the task that is run for it: the same, whoever makes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from .._payload.envelope import Envelope, Input, Origin, TaskSendPayload, policy_of
from .._payload.ids import node_task_id
from .._task.host import Host
from .._task.sealing import NOW, row_of
from ..abc import NewTask
from .spec import Spec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def task_of(host: Host, spec: Spec, workflow_id: str, index: int, runs: Sequence[int]) -> NewTask:
    """The task of a node. Its injected arguments are named by the tasks that they come from.

    Args:
        runs: how often each node has been run, this time included.
    """
    node = spec.nodes[index]
    now = host.environment.clock()
    serializer = host.app.config.serializer
    inputs = [
        Input(parameter, node_task_id(workflow_id, reference.node, max(1, runs[reference.node])), reference.as_result)
        for parameter, reference in sorted(node.injected.items())
    ]
    envelope = Envelope(
        task_id=node_task_id(workflow_id, index, runs[index]),
        task_name=node.task_name,
        queue=node.queue,
        priority=node.priority,
        serializer=serializer,
        arguments=host.serializers[serializer].dumps(dict(sorted(node.arguments.items()))),
        sent_at=now,
        delay=NOW,
        good_until=None if node.good_until is None else _EPOCH + timedelta(microseconds=node.good_until),
        timeout=None if node.timeout is None else timedelta(microseconds=node.timeout),
        retry=policy_of(*node.retry) if isinstance(node.retry, tuple) else node.retry,
        unique_key=None,
        metadata=(),
        origin=Origin(workflow_id, index, runs[index], tuple(inputs)),
    )
    return row_of(TaskSendPayload.seal(envelope), now)
