"""A task queue and workflow engine on Postgres, native on Trio and asyncio."""

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
from ._core.errors import BrokerError, HorsiesError, TaskError, TaskSendError
from ._core.result import Err, Ok, Result
from ._core.retry import RetryPolicy
from ._core.status import TaskStatus
from .hookspecs import hookimpl
