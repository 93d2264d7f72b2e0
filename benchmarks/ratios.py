"""The closing table: what horsies is held to, and whether a run reached it.

"horsies" is its better loop of asyncio and uvloop, and a peer its better loop of all it has, unless a line says else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cases import PEERS
from .figures import Figures, MissingError

OURS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Target:
    """Args: `at_most`: whether `bound` is the most that may be; otherwise it is the least."""

    what: str
    bound: float
    value: Callable[[Figures], float]
    at_most: bool = False
    unit: str = "x"


@dataclass(frozen=True)
class Verdict:
    """Args: `reached`: None where it could not be told; `value` says why."""

    what: str
    target: str
    value: str
    reached: bool | None


def _most(case: str, subject: str, *loops: str) -> Callable[[Figures], float]:
    return lambda figures: max(figures.all(case, [subject], "per_s", *([loops] if loops else [])))


def _over(numerator: Callable[[Figures], float], denominator: Callable[[Figures], float]) -> Callable[[Figures], float]:
    return lambda figures: numerator(figures) / denominator(figures)


def _best_peer(case: str) -> Callable[[Figures], float]:
    return lambda figures: max(figures.all(case, PEERS, "per_s"))


def _pickup(name: str) -> Callable[[Figures], float]:
    def ratio(figures: Figures) -> float:
        ours = figures.all("idle pickup", ["horsies"], name, OURS)
        return min(ours) / min(figures.all("idle pickup", ["pgqueuer"], name))

    return ratio


def _trip_to_pickup(figures: Figures) -> float:
    trips, pickups = (figures.all(case, ["horsies"], "p50") for case in ("round trip", "idle pickup"))
    return max(trip / pickup for trip, pickup in zip(trips, pickups, strict=True))


def _hop_to_pickup(figures: Figures) -> float:
    hops, pickups = (figures.all(case, ["horsies"], "p50") for case in ("node to node", "idle pickup"))
    return max(hop / pickup for hop, pickup in zip(hops, pickups, strict=True))


def _idle(name: str) -> Callable[[Figures], float]:
    return lambda figures: max(figures.all("idle worker", ["horsies"], name))


_DRAIN, _SEND = "drain, concurrency 100", "send, 100 senders"
_DRAINED = _most(_DRAIN, "horsies", *OURS)
_PGQUEUER = _most(_DRAIN, "pgqueuer")


def _nodes(case: str) -> Callable[[Figures], float]:
    return _over(_most(case, "horsies", *OURS), _DRAINED)


TARGETS = (
    Target("drain at 100: horsies / pgqueuer", 1.4, _over(_DRAINED, _PGQUEUER)),
    Target("drain at 100: horsies on Trio / pgqueuer", 1.15, _over(_most(_DRAIN, "horsies", "trio"), _PGQUEUER)),
    Target("drain at 100: horsies / floor", 0.6, _over(_DRAINED, _most(_DRAIN, "floor"))),
    Target("drain at 100: horsies / procrastinate", 30, _over(_DRAINED, _most(_DRAIN, "procrastinate"))),
    Target("100 senders: horsies / best peer", 8, _over(_most(_SEND, "horsies", *OURS), _best_peer(_SEND))),
    Target(
        "1 sender: bare INSERT and NOTIFY / horsies",
        1.6,
        _over(_most("send, 1 sender", "floor"), _most("send, 1 sender", "horsies", *OURS)),
        at_most=True,
    ),
    Target(
        "send_many: horsies / pgqueuer",
        1.0,
        _over(_most("send_many", "horsies", *OURS), _most("send_many", "pgqueuer")),
    ),
    Target("idle pickup p50: horsies / pgqueuer", 1.0, _pickup("p50"), at_most=True),
    Target("idle pickup p99: horsies / pgqueuer", 1.0, _pickup("p99"), at_most=True),
    Target("round trip p50 / pickup p50, horsies' worst loop", 2.0, _trip_to_pickup, at_most=True),
    Target("nodes of chains of 10 / drain at 100", 0.25, _nodes("nodes of chains of 10")),
    Target("nodes of a fan of 1,000 / drain at 100", 0.25, _nodes("nodes of a fan of 1,000")),
    Target("node to node p50 / pickup p50, horsies' worst loop", 2.0, _hop_to_pickup, at_most=True),
    Target("idle worker: queries beside the heartbeat", 1.0, _idle("queries_per_s"), at_most=True, unit="/s"),
    Target("idle worker: CPU", 0.5, _idle("cpu_percent"), at_most=True, unit="%"),
    Target("idle worker: memory", 60, _idle("rss_mb"), at_most=True, unit="MB"),
)


def verdicts(figures: Figures) -> list[Verdict]:
    """Each target with what the run says of it."""
    return [_judge(target, figures) for target in TARGETS]


def _judge(target: Target, figures: Figures) -> Verdict:
    bound = f"{'<=' if target.at_most else '>='} {target.bound:g} {target.unit}"
    try:
        value = target.value(figures)
    except MissingError as missing:
        return Verdict(target.what, bound, str(missing), None)
    reached = value <= target.bound if target.at_most else value >= target.bound
    return Verdict(target.what, bound, f"{value:.2f} {target.unit}", reached)
