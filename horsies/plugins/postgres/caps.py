"""How many tasks may be held at once, of a queue and in all.

Whoever claims under a cap counts first. Two that count at the same time would both find room, so the claims of one
capped queue take turns, by an advisory lock that is held until the claim has committed. Queues without a cap need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from horsies import AppConfig


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps of the queues that one worker serves.

    Attributes:
        queues: of each of them, None where there is none.
        cluster: of all tasks, whatever their queue.
        capped: names of the queues in which the end of a task makes room for another.
        locks: keys of the advisory locks under which to count.
    """

    queues: tuple[int | None, ...]
    cluster: int | None
    capped: tuple[str, ...]
    locks: tuple[int, ...]

    @classmethod
    def of(cls, config: AppConfig, served: Sequence[str]) -> Caps:
        declared = {queue.name: queue.max_concurrency for queue in config.queues}
        caps = tuple(declared.get(name) for name in served)
        capped = [name for name, cap in zip(served, caps, strict=True) if cap is not None]
        names = [f"queue {name}" for name in capped]
        if config.cluster_wide_cap is not None:
            names.append("cluster")
            capped = list(served)
        locks = tuple(_key(config.schema, name) for name in names)
        return cls(caps, config.cluster_wide_cap, tuple(capped), locks)


def _key(schema: str, name: str) -> int:
    return int.from_bytes(sha256(f"horsies {schema} {name}".encode()).digest()[:8], signed=True)
