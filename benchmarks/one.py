"""One measurement in a process of its own: `python -m benchmarks.one ORDER`; the figures go to stdout as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import anyio


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to measure, on what.

    Args:
        measure: the name of a function of `benchmarks.measures`, or of `benchmarks.flows` after "flows.".
        subject: the name of a module of `benchmarks.subjects`.
        loop: "asyncio", "uvloop" or "trio".
        seconds: how long it lasts, where it is not a number of tasks that ends it.
    """

    measure: str
    subject: str
    loop: str
    url: str
    kind: str = "nothing"
    tasks: int = 0
    seconds: float = 1.0
    senders: int = 1
    concurrency: int = 100
    processes: int = 1

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def carry_out(order: Order) -> dict[str, float]:
    """Its figures, measured in this process."""
    module, _, name = order.measure.rpartition(".")
    measures: Any = importlib.import_module(f"benchmarks.{module or 'measures'}")
    subject = importlib.import_module(f"benchmarks.subjects.{order.subject}")
    backend = "trio" if order.loop == "trio" else "asyncio"
    options = {"use_uvloop": order.loop == "uvloop"} if backend == "asyncio" else {}
    figures: dict[str, float] = anyio.run(
        getattr(measures, name), subject, order, backend=backend, backend_options=options
    )
    return figures


if __name__ == "__main__":
    print(json.dumps(carry_out(Order(**json.loads(sys.argv[1])))))
