"""The task that follows from a slot: the same one whoever makes it, and whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import RFC_4122, UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies import AppConfig, Every, Horsies, QueueConfig, Schedule, TaskSendPayload
from horsies._core.names import is_task_id
from horsies._payload.ids import slot_task_id
from horsies._schedule.slot_tasks import seal_slot
from horsies.plugins.serializers import horsies_serializers

SLOT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def app() -> Horsies:
    queues = (QueueConfig("default"), QueueConfig("images"))
    return Horsies(AppConfig.for_database_url("sqlite://:memory:", queues=queues))


@pytest.fixture
def ping(app: Horsies) -> Any:
    @app.task
    def ping() -> None: ...

    return ping


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
slots = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(names, names, slots, slots)
def test_slot_task_ids(name: str, other: str, slot: datetime, later: datetime) -> None:
    task_id = slot_task_id(name, slot)
    assert is_task_id(task_id)
    assert task_id == task_id.lower() == str(UUID(task_id))
    assert (UUID(task_id).version, UUID(task_id).variant) == (8, RFC_4122)
    assert task_id == slot_task_id(name, slot.astimezone(ZoneInfo("Asia/Kathmandu")))
    assert (task_id == slot_task_id(other, slot)) == (name == other)
    assert (task_id == slot_task_id(name, later)) == (slot == later)
    if later - slot >= timedelta(milliseconds=1):
        assert task_id < slot_task_id(other, later)


def test_slot_task_ids_stay_what_they_are() -> None:
    assert slot_task_id("nightly", SLOT) == "019ca945-0a00-832f-a36f-944703fd4a39"


def sealed(schedule: Schedule, app: Horsies, slot: datetime = SLOT) -> TaskSendPayload:
    host: Any = SimpleNamespace(app=app, serializers=horsies_serializers(), retry_policies={})
    return seal_slot(host, schedule, slot).unwrap()


def test_a_slot_has_the_options_of_its_schedule(app: Horsies) -> None:
    @app.task
    def resize(path: str) -> None: ...

    schedule = app.schedule(
        "x", resize, Every(60), args=["a.png"], queue="images", priority=7, timeout=3, good_until=timedelta(hours=1)
    )
    payload = sealed(schedule, app)
    assert (payload.task_name, payload.queue, payload.priority) == ("resize", "images", 7)
    assert (payload.sent_at, payload.delay, payload.timeout) == (SLOT, timedelta(0), timedelta(seconds=3))
    assert (payload.good_until, payload.unique_key) == (SLOT + timedelta(hours=1), None)


def test_a_unique_key_of_ones_own_and_that_of_skipping(app: Horsies, ping: Any) -> None:
    assert sealed(app.schedule("x", ping, Every(60), unique_key="mine"), app).unique_key == "mine"
    assert sealed(app.schedule("y", ping, Every(60), overlap="skip"), app).unique_key == "schedule y"


def test_jitter_is_of_the_slot_and_the_schedule(app: Horsies, ping: Any) -> None:
    one, other = (app.schedule(name, ping, Every(60), jitter=10.0) for name in "ab")
    slots = [SLOT + number * timedelta(minutes=1) for number in range(50)]
    delays = [sealed(schedule, app, slot).delay for schedule in (one, other) for slot in slots]
    assert len(set(delays)) == len(delays)
    assert all(timedelta(0) <= delay <= timedelta(seconds=10) for delay in delays)
    assert delays == [sealed(schedule, app, slot).delay for schedule in (one, other) for slot in slots]


PROGRAM = """
from datetime import UTC, datetime, time, timedelta
from types import SimpleNamespace

from horsies import AppConfig, Daily, Horsies
from horsies._schedule.slot_tasks import seal_slot
from horsies.plugins.serializers import horsies_serializers

app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

@app.task
def work(tags: set[str], sizes: dict[str, int]) -> None: ...

schedule = app.schedule(
    "nightly", work, Daily(time(3)), args=[set("abcdefgh")], kwargs={"sizes": {"b": 1, "a": 2}}, jitter=60.0,
    good_until=timedelta(hours=1), metadata={"x": "1", "y": "2"}, overlap="skip",
)
host = SimpleNamespace(app=app, serializers=horsies_serializers(), retry_policies={})
payload = seal_slot(host, schedule, datetime(2026, 3, 1, 3, tzinfo=UTC)).unwrap()
print(payload.task_id, payload.delay.total_seconds(), payload.good_until, payload.unique_key, payload.envelope.hex())
"""


def test_a_slot_is_sealed_to_the_same_bytes_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone},
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    [one] = said
    task_id, delay, *_ = one.split()
    assert task_id == slot_task_id("nightly", datetime(2026, 3, 1, 3, tzinfo=UTC))
    assert 0 < float(delay) < 60
    assert "2026-03-01 04:00:00+00:00 schedule nightly" in one
