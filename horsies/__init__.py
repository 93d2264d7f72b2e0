"""A task queue and workflow engine on Postgres, native on Trio and asyncio."""

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
from ._payload.envelope import TaskSendPayload
from ._payload.send_error import TaskSendError
from ._payload.start import WorkflowStartPayload
from ._runtime.blocking import BlockingRuntime, blocking
from ._runtime.queues import QueueInfo
from ._runtime.runtime import Runtime, TaskContext
from ._runtime.schedules import BackfillInfo, ScheduleInfo
from ._schedule.patterns import Cron, Daily, Every, Hourly, Monthly, Weekly
from ._task.app import Horsies
from ._task.context import TaskInterrupted
from ._task.declare import Binds, RunningRuntime, Task, task
from ._task.handle import AttemptInfo, TaskHandle, TaskInfo, TaskResult
from ._task.host import Environment
from ._task.node import NodeRef, TaskNode
from ._task.options import TaskSendOptions
from ._task.recurring import Pattern, Schedule
from ._task.send import TaskFunction, TaskSendResult
from ._task.workflow import BindsWorkflows, Workflow
from ._worker.worker import Worker, WorkerStatistics
from ._workflow.builder import WorkflowBuilder
from ._workflow.draft import SuccessCase, WorkflowSpec
from ._workflow.drawing import WorkflowGraph
from ._workflow.handle import WorkflowHandle
from ._workflow.infos import NodeInfo, WorkflowInfo
from ._workflow.start import WorkflowFunction
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
    "Binds",
    "BindsWorkflows",
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

_FORMER_MODULES = {"TaskSendError": "horsies._core.errors"}
"""Where an earlier version defined a class: a pickle of that time looks for it there."""

for _name, _module in _FORMER_MODULES.items():
    setattr(sys.modules.setdefault(_module, types.ModuleType(_module)), _name, globals()[_name])
