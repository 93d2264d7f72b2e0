"""What plugin authors implement: small protocols by role, and the records that cross them. No logic."""

from .._core.errors import BrokerError
from .._core.retry import SupportsDelay
from .._core.status import TaskStatus
from .broker import (
    Broker,
    BrokerFactory,
    Clock,
    Consumer,
    Listener,
    Producer,
    Reader,
    Topic,
)
from .records import (
    AttemptRow,
    Claim,
    ClaimedTask,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Lease,
    NewTask,
    Promotion,
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
    "Claim",
    "ClaimedTask",
    "Clock",
    "Consumer",
    "EnqueueOutcome",
    "Finish",
    "GiveBack",
    "Lease",
    "Listener",
    "NewTask",
    "Plain",
    "Producer",
    "Promotion",
    "Reader",
    "Serializer",
    "StartOutcome",
    "StoredResult",
    "SupportsDelay",
    "TaskRow",
    "TaskStatus",
    "Topic",
]
