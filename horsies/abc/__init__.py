"""What plugin authors implement: small protocols by role, and the records that cross them. No logic."""

from .._core.errors import BrokerError
from .._core.retry import SupportsDelay
from .._core.status import CancelOutcome, TaskStatus
from .broker import (
    Broker,
    BrokerFactory,
    Clock,
    Consumer,
    Control,
    Listener,
    Notice,
    Producer,
    Reader,
    Topic,
    Transactional,
)
from .records import (
    AttemptRow,
    Claim,
    ClaimedTask,
    Enqueued,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Lease,
    NewTask,
    Promotion,
    Start,
    StartOutcome,
    StoredResult,
    TaskRow,
)
from .serializer import Plain, Serializer

__all__ = [
    "AttemptRow",
    "Broker",
    "BrokerError",
    "BrokerFactory",
    "CancelOutcome",
    "Claim",
    "ClaimedTask",
    "Clock",
    "Consumer",
    "Control",
    "EnqueueOutcome",
    "Enqueued",
    "Finish",
    "GiveBack",
    "Lease",
    "Listener",
    "NewTask",
    "Notice",
    "Plain",
    "Producer",
    "Promotion",
    "Reader",
    "Serializer",
    "Start",
    "StartOutcome",
    "StoredResult",
    "SupportsDelay",
    "TaskRow",
    "TaskStatus",
    "Topic",
    "Transactional",
]
