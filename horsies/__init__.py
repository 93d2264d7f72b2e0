"""A task queue and workflow engine on Postgres, native on Trio and asyncio."""

import inspect
import sys
import types

from ._core.codes import TaskErrorCode, TaskSendErrorCode
from ._core.config import (
    AppConfig,
    PayloadPolicy,
    PoolConfig,
    QueueConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetentionConfig,
    WorkerConfig,
)
from ._core.errors import BrokerError, ErrorCause, HorsiesError, TaskError
from ._core.result import Err, Ok, Result
from ._core.retry import RetryPolicy
from ._core.status import CancelOutcome, NodeStatus, TaskStatus, WorkflowStatus
from ._declare.app import Horsies
from ._declare.context import TaskInterrupted
from ._declare.node import NodeRef, TaskNode
from ._declare.schedule import Pattern, Schedule
from ._declare.task import RunningBlockingRuntime, RunningRuntime, Task, task
from ._declare.workflow import BindsAnyWorkflow, BindsWorkflows, Workflow
from ._payload.send_error import TaskSendError
from ._payload.send_payload import TaskSendPayload
from ._payload.start_payload import WorkflowStartPayload
from ._runtime.blocking import BlockingRuntime, BlockingWorker, blocking
from ._runtime.queues import QueueInfo
from ._runtime.runtime import Runtime, TaskContext
from ._runtime.schedules import BackfillInfo, ScheduleInfo
from ._schedule.patterns import Cron, Daily, Every, Hourly, Monthly, Weekly
from ._send.blocking import BlockingTaskFunction, BlockingTaskHandle
from ._send.gateway import Environment
from ._send.options import TaskSendOptions
from ._send.task_function import TaskFunction, TaskSendResult
from ._send.task_handle import AttemptInfo, TaskHandle, TaskInfo, TaskResult
from ._worker.worker import Worker, WorkerStatistics
from ._workflow.blocking import BlockingWorkflowFunction, BlockingWorkflowHandle
from ._workflow.definition.builder import WorkflowBuilder
from ._workflow.definition.draft import SuccessCase, WorkflowSpec
from ._workflow.view.diagram import WorkflowGraph
from ._workflow.view.infos import NodeInfo, WorkflowInfo
from ._workflow.workflow_function import WorkflowFunction
from ._workflow.workflow_handle import WorkflowHandle
from .hookspecs import hookimpl

__all__ = [
    # declaring
    "Horsies",
    "task",
    "Task",
    "TaskContext",
    "RetryPolicy",
    # workflows
    "Workflow",
    "WorkflowBuilder",
    "TaskNode",
    "NodeRef",
    "SuccessCase",
    "WorkflowSpec",
    "WorkflowStartPayload",
    "WorkflowFunction",
    "WorkflowHandle",
    "WorkflowStatus",
    "WorkflowInfo",
    "WorkflowGraph",
    "NodeInfo",
    "NodeStatus",
    # scheduling
    "Schedule",
    "Every",
    "Hourly",
    "Daily",
    "Weekly",
    "Monthly",
    "Cron",
    "Pattern",
    "ScheduleInfo",
    "BackfillInfo",
    # running
    "Runtime",
    "RunningRuntime",
    "Environment",
    "blocking",
    "BlockingRuntime",
    "BlockingTaskFunction",
    "BlockingTaskHandle",
    "BlockingWorkflowFunction",
    "BlockingWorkflowHandle",
    "BlockingWorker",
    "RunningBlockingRuntime",
    "BindsWorkflows",
    "BindsAnyWorkflow",
    "Worker",
    "WorkerStatistics",
    "QueueInfo",
    # sending
    "TaskFunction",
    "TaskSendOptions",
    "TaskSendResult",
    "TaskSendPayload",
    "TaskSendError",
    "TaskSendErrorCode",
    # results
    "TaskHandle",
    "TaskResult",
    "TaskInfo",
    "AttemptInfo",
    "TaskStatus",
    "CancelOutcome",
    "Result",
    "Ok",
    "Err",
    # errors
    "TaskError",
    "TaskErrorCode",
    "ErrorCause",
    "TaskInterrupted",
    "BrokerError",
    "HorsiesError",
    # configuration
    "AppConfig",
    "QueueConfig",
    "PayloadPolicy",
    "RecoveryConfig",
    "RetentionConfig",
    "ResilienceConfig",
    "PoolConfig",
    "WorkerConfig",
    # plugins
    "hookimpl",
]

_FORMER_MODULES = {
    "AttemptInfo": "horsies._task.handle",
    "NodeInfo": "horsies._workflow.infos",
    "NodeRef": "horsies._task.node",
    "SuccessCase": "horsies._workflow.draft",
    "TaskInfo": "horsies._task.handle",
    "TaskInterrupted": "horsies._task.context",
    "TaskSendError": "horsies._core.errors",
    "TaskSendOptions": "horsies._task.options",
    "TaskSendPayload": "horsies._payload.envelope",
    "WorkflowGraph": "horsies._workflow.drawing",
    "WorkflowInfo": "horsies._workflow.infos",
    "WorkflowStartPayload": "horsies._payload.start",
}
"""Where an earlier version defined a class: a pickle of that time looks for it there."""

for _name, _module in _FORMER_MODULES.items():
    setattr(sys.modules.setdefault(_module, types.ModuleType(_module)), _name, globals()[_name])

for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        # As text they would be looked up in this module, which does not import what they name.
        _public.__annotations__ = inspect.get_annotations(_public, eval_str=True)
    if isinstance(_public, (type, types.FunctionType)):
        _public.__module__ = __name__
