"""What plugin authors implement: small protocols by role, and the records that cross them.

Two functions are for brokers: `isolate` finds the item that makes a batch fail, `is_task_id` says which ids there are.
"""

from .._core.errors import BrokerError
from .._core.isolate import isolate
from .._core.names import is_task_id
from .._core.retry import SupportsDelay
from .._core.status import CancelOutcome, TaskStatus
from .broker import Broker, BrokerFactory, Clock, Migrating, Transactional
from .control import Control
from .listener import Listener, Notice, Topic
from .maintenance import Maintenance
from .reader import Reader
from .records import (
    AttemptRow,
    Claim,
    ClaimedTask,
    Enqueued,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Held,
    Lease,
    NewTask,
    Promotion,
    QueueRow,
    SchemaState,
    Start,
    StartOutcome,
    StoredResult,
    TaskRow,
    Verb,
)
from .schedules import Firing, NewSchedule, ScheduleBook, ScheduleRow, Schedules, Scheduling
from .serializer import Plain, Serializer
from .tasks import Completion, Intake, Producer
from .workers import Consumer, Membership
from .workflows import (
    HEAD,
    LARGE,
    MOST_NEWS,
    OWN,
    Decide,
    EndedTask,
    News,
    NewWorkflow,
    Range,
    Signal,
    Slice,
    Step,
    Workflowing,
    WorkflowRow,
    Workflows,
    WorkflowSummary,
)

__all__ = [
    "AttemptRow",
    "Broker",
    "BrokerError",
    "BrokerFactory",
    "CancelOutcome",
    "Claim",
    "ClaimedTask",
    "Clock",
    "Completion",
    "Consumer",
    "Control",
    "Decide",
    "OWN",
    "EndedTask",
    "EnqueueOutcome",
    "Enqueued",
    "Finish",
    "Firing",
    "GiveBack",
    "Held",
    "HEAD",
    "LARGE",
    "Intake",
    "Lease",
    "Listener",
    "MOST_NEWS",
    "Maintenance",
    "Membership",
    "Migrating",
    "NewSchedule",
    "NewTask",
    "NewWorkflow",
    "News",
    "Notice",
    "Plain",
    "Producer",
    "Promotion",
    "QueueRow",
    "Range",
    "Reader",
    "ScheduleBook",
    "ScheduleRow",
    "Schedules",
    "Scheduling",
    "SchemaState",
    "Serializer",
    "Start",
    "StartOutcome",
    "Signal",
    "Slice",
    "Step",
    "StoredResult",
    "SupportsDelay",
    "TaskRow",
    "TaskStatus",
    "Topic",
    "Transactional",
    "Verb",
    "WorkflowRow",
    "Workflowing",
    "WorkflowSummary",
    "Workflows",
    "is_task_id",
    "isolate",
]
