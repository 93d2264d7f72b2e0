"""What is measured, as data. Subjects that are slower by far get fewer tasks: each takes some seconds at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from .subjects import MARK, NOTHING, SYNC, WAIT

PEERS = ("pgqueuer", "procrastinate", "oban")
SUBJECTS = ("horsies", "horsies_sqlite", "floor", *PEERS)

QUICK = 20
"""By how much `--quick` makes everything shorter."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table.

    Args:
        measure: a function of `benchmarks.measures`, or of `benchmarks.flows` after "flows.".
        tasks: the subjects it is for, each with its number of tasks; 0 where it is time that ends it.
        given: the other fields of `benchmarks.one.Order`.
        loops: it runs on those that are a subject's as well.
    """

    name: str
    measure: str
    tasks: Mapping[str, int]
    given: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    loops: tuple[str, ...] = ("asyncio", "uvloop", "trio")

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of task that a subject has to have."""
        if self.measure == "mixed":
            return frozenset({NOTHING, WAIT, SYNC, MARK})
        return frozenset({MARK if self.measure == "pickup" else self.given.get("kind", NOTHING)})

    def quick(self) -> Case:
        tasks = {subject: max(count // QUICK, 20) for subject, count in self.tasks.items()}
        return replace(self, tasks=tasks, given={**self.given, "seconds": 0.5})


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(("horsies", "horsies_sqlite", *PEERS), count)


_DRAINED = {"horsies": 20_000, "horsies_sqlite": 10_000, "pgqueuer": 20_000, "procrastinate": 500, "oban": 1_000}
_DRAINED_BY_TEN = {**_DRAINED, "horsies": 4_000, "horsies_sqlite": 4_000, "floor": 4_000, "pgqueuer": 4_000}
_DRAINED_SYNC = {**_DRAINED, "horsies": 5_000, "horsies_sqlite": 5_000, "pgqueuer": 5_000}
_MADE = {"horsies": 20_000, "horsies_sqlite": 20_000, "pgqueuer": 20_000, "procrastinate": 5_000, "oban": 5_000}
_SHARED = {"horsies": 30_000, "floor": 30_000, "pgqueuer": 30_000, "procrastinate": 1_000, "oban": 2_000}
_LONG = dict.fromkeys(("horsies", "floor", "pgqueuer"), 100_000)

CASES = (
    Case(name="send, 1 sender", measure="send", tasks={**_all(0), "floor": 0}),
    *(
        Case(name=f"send, {senders:,} senders", measure="send", tasks=_all(0), given={"senders": senders})
        for senders in (10, 100, 1_000)
    ),
    Case(name="send_many", measure="send_many", tasks=_MADE),
    Case(name="drain, concurrency 10", measure="drain", tasks=_DRAINED_BY_TEN, given={"concurrency": 10}),
    *(
        Case(
            name=f"drain, concurrency {concurrency:,}",
            measure="drain",
            tasks={**_DRAINED, "floor": 20_000},
            given={"concurrency": concurrency},
        )
        for concurrency in (100, 1_000)
    ),
    Case(name="drain of 100,000", measure="drain", tasks=_LONG),
    Case(name="drain of 1 ms tasks", measure="drain", tasks=_DRAINED, given={"kind": WAIT}),
    Case(name="drain of sync tasks", measure="drain", tasks=_DRAINED_SYNC, given={"kind": SYNC}),
    *(
        Case(
            name=f"drain, {processes} worker process{'es' if processes > 1 else ''}",
            measure="drain_together",
            tasks=_SHARED,
            given={"processes": processes},
        )
        for processes in (1, 2, 4)
    ),
    Case(name="mixed load", measure="mixed", tasks=_all(0), given={"senders": 50, "seconds": 4.0}),
    Case(name="idle pickup", measure="pickup", tasks=_all(200)),
    Case(name="round trip", measure="round_trip", tasks=_all(200)),
    Case(name="nodes of chains of 10", measure="flows.chains", tasks={"horsies": 1_000}),
    Case(name="nodes of a fan of 1,000", measure="flows.fan", tasks={"horsies": 1_000}),
    Case(name="node to node", measure="flows.hops", tasks={"horsies": 200}),
    Case(name="start of 1,000 nodes", measure="flows.starts", tasks={"horsies": 1_000}),
    Case(
        name="idle worker",
        measure="idle",
        tasks={"horsies": 0},
        given={"seconds": 60.0},
        loops=("asyncio", "trio"),
    ),
)
