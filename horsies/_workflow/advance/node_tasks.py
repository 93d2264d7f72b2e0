"""From a node of a workflow to the task that is run for it: the same, whoever makes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ..._core.instants import instant_of
from ..._payload.envelope import Envelope, Input, Origin, policy_of
from ..._payload.send_payload import TaskSendPayload
from ..._send.encode_call import NOW, row_of
from ..._send.gateway import Gateway
from ...abc import NewTask
from ..definition.spec import Spec
from ..node_ids import node_task_id
from .expansion import opening


def task_of(gateway: Gateway, spec: Spec, workflow_id: str, index: int, runs: Sequence[int]) -> NewTask:
    """The task of a node, or the one that opens it. Its injected arguments are named by what they come from.

    Args:
        runs: how often each node has been run, this time included.
    """
    node = spec.nodes[index]
    now = gateway.environment.clock()
    serializer = gateway.app.config.serializer

    def input_of(name: str, source: int, as_result: bool) -> Input:
        task_id = node_task_id(workflow_id, source, max(1, runs[source]))
        return Input(name, task_id, as_result, of_workflow=spec.nodes[source].kind != "task")

    inputs = [input_of(name, ref.node, ref.as_result) for name, ref in sorted(node.injected.items())]
    context = [input_of(spec.nodes[source].node_id, source, True) for source in node.context]
    name, arguments = (node.task_name, node.arguments) if node.kind == "task" else opening(spec, node)
    envelope = Envelope(
        task_id=node_task_id(workflow_id, index, runs[index]),
        task_name=name,
        queue=node.queue,
        priority=node.priority,
        serializer=serializer,
        arguments=gateway.serializers[serializer].dumps(dict(sorted(arguments.items()))),
        sent_at=now,
        delay=NOW,
        good_until=None if node.good_until is None else instant_of(node.good_until),
        timeout=None if node.timeout is None or node.kind != "task" else timedelta(microseconds=node.timeout),
        retry=None if node.kind != "task" else policy_of(*node.retry) if isinstance(node.retry, tuple) else node.retry,
        unique_key=None,
        metadata=(),
        origin=Origin(
            workflow_id,
            index,
            runs[index],
            tuple(inputs),
            node.node_id,
            tuple(sorted(context, key=lambda one: one.parameter)),
        ),
    )
    return row_of(TaskSendPayload.seal(envelope), now)
