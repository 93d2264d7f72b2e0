"""Workflows that are parts of others, what they tell each other, and workflows that are late or cannot go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import anyio
import pytest
from msgspec.structs import replace

from horsies.abc import OWN, BrokerError, NewWorkflow, Signal, Start, TaskStatus, Topic, Workflows

from .stage import Stage, at, done, heard
from .workflows import DAY, FIRST, SECOND, Deciding, begins, ended, goes_on, node, task_id, workflow_id

PART, OTHER = workflow_id(3), workflow_id(4)


def part(workflow_id: str = PART, *numbers: int, of: str = FIRST, **fields: object) -> NewWorkflow:
    """A part that starts with these tasks."""
    new = begins(workflow_id, *(node(n, of=workflow_id) for n in numbers), parent_id=of, root_id=FIRST)
    return replace(new, **fields)


async def statuses(workflows: Workflows, *ids: str) -> list[str | None]:
    rows = [await workflows.read(workflow_id) for workflow_id in ids]
    return [None if row is None else row.status for row in rows]


class Parting:
    """Workflows that are parts of others, what they tell each other, and workflows that are late or cannot go on."""

    async def test_a_workflow_starts_with_its_parts(self, workflows: Workflows) -> None:
        inner = part(OTHER, 3, of=PART, good_until=at(9))
        whole = begins(FIRST, node(1), parts=(part(PART, 2, parts=(inner,)), part(SECOND)))
        await workflows.start(whole, now=at(1))
        assert await statuses(workflows, FIRST, SECOND, PART, OTHER) == ["RUNNING"] * 4
        row = await workflows.read(OTHER)
        assert row is not None
        assert (row.parent_id, row.root_id, row.good_until, row.finished_at) == (PART, FIRST, at(9), None)
        for n, id_ in enumerate((FIRST, PART, OTHER), 1):
            assert await workflows.tasks(id_) == [(task_id(n), TaskStatus.PENDING, None)]

    async def test_a_replayed_start_starts_no_parts(self, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(1))
        await workflows.start(begins(FIRST, node(1), parts=(part(PART, 2),)), now=at(2))
        assert await statuses(workflows, FIRST, PART) == ["RUNNING", None]

    async def test_an_advance_starts_parts(self, stage: Stage, workflows: Workflows) -> None:
        await ended(stage, workflows, FIRST, (1,))
        inner = part(OTHER, 3, of=PART, status="PAUSED")
        await workflows.advance([FIRST], Deciding(goes_on(parts=(part(PART, 2, parts=(inner,)),))), now=at(7))
        assert await statuses(workflows, PART, OTHER) == ["RUNNING", "PAUSED"]
        assert await workflows.tasks(OTHER) == [(task_id(3), TaskStatus.PENDING, None)]
        again = part(PART, 5, state=b"other", parts=(part(SECOND, 6),))
        await workflows.advance([FIRST], Deciding(goes_on(parts=(again,))), now=at(8))
        assert await workflows.tasks(PART) == [(task_id(2), TaskStatus.PENDING, None)]
        assert await statuses(workflows, SECOND) == [None]

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED", "EXPIRED"])
    async def test_a_part_may_end_as_it_starts(self, workflows: Workflows, status: str) -> None:
        await workflows.start(begins(), now=at(0))
        await workflows.advance([FIRST], Deciding(goes_on(parts=(part(status=status),))), now=at(7))
        row = await workflows.read(PART)
        assert row is not None
        assert (row.status, row.finished_at) == (status, at(7))

    async def test_signals_are_taken_once_and_in_order(self, workflows: Workflows) -> None:
        for id_ in (FIRST, SECOND):
            await workflows.start(begins(id_), now=at(0))
        told = (
            Signal(SECOND, b"\0a"),
            Signal(PART, b"b"),
            Signal(FIRST, b"c"),
            Signal(OTHER, b""),
            Signal(SECOND, b"d"),
        )
        step = goes_on(signals=told, parts=(part(),))
        assert await workflows.advance([FIRST, SECOND], Deciding(step), now=at(1)) == [step]
        assert await workflows.unadvanced(5) == [FIRST, SECOND, PART]
        assert await workflows.unadvanced(5, skipping=[SECOND]) == [FIRST, PART]
        ids = [FIRST, SECOND, PART, OTHER]
        deciding = Deciding(goes_on(PART), goes_on(SECOND))
        await workflows.advance(ids, deciding, now=at(2))
        assert [news.signals for news in deciding.given[0]] == [(b"c",), (b"\0a", b"d"), (b"b",)]
        # What had no step keeps them.
        again = Deciding(goes_on())
        await workflows.advance(ids, again, now=at(3))
        assert [news.signals for news in again.given[0]] == [(b"c",), (), ()]
        assert await workflows.unadvanced(5) == []

    async def test_of_an_advance_that_fails_nothing_is_told_or_taken(self, workflows: Workflows) -> None:
        for id_ in (FIRST, SECOND):
            await workflows.start(begins(id_), now=at(0))
        await workflows.advance([FIRST], Deciding(goes_on(signals=(Signal(FIRST, b"mine"),))), now=at(1))
        tells, fails = goes_on(signals=(Signal(SECOND, b"yours"),), parts=(part(),)), goes_on(SECOND, status="OTHER")
        with pytest.raises(BrokerError):
            await workflows.advance([FIRST, SECOND], Deciding(tells, fails), now=at(2))
        assert await workflows.unadvanced(5) == [FIRST]
        assert await statuses(workflows, PART) == [None]

    async def test_results_come_with_the_ends_of_tasks_of_horsies_own(self, stage: Stage, workflows: Workflows) -> None:
        names = {1: f"{OWN}open", 2: "horsies", 3: "horsiesXopen", 4: "my.horsies.open"}
        await workflows.start(begins(FIRST, *(node(n, task_name=name) for n, name in names.items())), now=at(0))
        worker = await stage.worker()
        claimed = (await worker.claim(4, now=at(0))).tasks
        await worker.start([Start(task.lease) for task in claimed], now=at(0))
        await worker.finish([replace(done(task.lease), result=b"\0r") for task in claimed], now=at(1))
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(2))
        assert {end.task_id: end.result for end in deciding.given[0][0].ended} == {
            task_id(1): b"\0r",
            **{task_id(n): None for n in (2, 3, 4)},
        }

    async def test_what_is_overdue_is_found_and_said(self, workflows: Workflows) -> None:
        for n, id_ in enumerate((FIRST, SECOND, PART)):
            await workflows.start(begins(id_, status="PAUSED" if n else "RUNNING", good_until=at(5 + n)), now=at(0))
        await workflows.advance([PART], Deciding(goes_on(PART, status="CANCELLED")), now=at(1))
        assert await workflows.unadvanced(5, now=at(4)) == []
        assert await workflows.unadvanced(5, now=at(5)) == [FIRST]
        assert await workflows.unadvanced(5, now=at(9)) == [FIRST, SECOND]
        assert await workflows.unadvanced(1, now=at(9)) == [FIRST]
        assert await workflows.unadvanced(5, now=at(9), skipping=[FIRST]) == [SECOND]
        deciding = Deciding()
        await workflows.advance([FIRST, SECOND, PART], deciding, now=at(5))
        await workflows.advance([FIRST, SECOND, PART], deciding, now=at(9))
        assert [[news.is_overdue for news in all_news] for all_news in deciding.given] == [
            [True, False, False],
            [True, True, False],
        ]

    async def test_the_clock_of_the_database_says_what_is_overdue(self, workflows: Workflows) -> None:
        await workflows.start(begins(good_until=at(0) - timedelta(days=20_000)))
        assert await workflows.unadvanced(5) == [FIRST]

    async def test_a_problem_is_shown_until_the_next_step(self, workflows: Workflows) -> None:
        await workflows.start(begins(), now=at(0))
        for id_ in (FIRST, SECOND, "nonsense"):
            await workflows.note_problem(id_, "it's 100% \\ %s {x}: no such task 'Ü'")
        row = await workflows.read(FIRST)
        assert row is not None
        assert row.problem == "it's 100% \\ %s {x}: no such task 'Ü'"
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(1))
        assert deciding.given[0][0].row == row
        assert (await workflows.read(FIRST)) == replace(row, problem=None, state=b"\0later")

    async def test_parts_are_kept_while_the_whole_goes_on(self, stage: Stage, workflows: Workflows) -> None:
        """Their results are still asked for: by the whole, and by those who look at it."""
        await workflows.start(begins(FIRST, parts=(part(PART, 1, parts=(part(OTHER, 2, of=PART),)),)), now=at(0))
        await workflows.start(begins(SECOND), now=at(0))
        await workflows.advance([SECOND], Deciding(goes_on(SECOND, signals=(Signal(SECOND, b"for later"),))), now=at(1))
        worker = await stage.worker()
        for _ in range(2):
            (claimed,) = (await worker.claim(1, now=at(0))).tasks
            await worker.start([Start(claimed.lease)], now=at(0))
            await worker.finish([done(claimed.lease)], now=at(1))

        async def end(*ids: str) -> None:
            steps = [goes_on(id_, status="COMPLETED", signals=(Signal(id_, b""),)) for id_ in ids]
            await workflows.advance(ids, Deciding(*steps), now=at(2))

        async def prune() -> Sequence[str | None]:
            while await stage.maintenance.prune(10, finished_after=DAY, now=at(10) + 2 * DAY):
                pass
            return await statuses(workflows, FIRST, PART, OTHER)

        await end(PART, OTHER)
        assert await prune() == ["RUNNING", "COMPLETED", "COMPLETED"]
        assert len(await stage.broker.reader.results([task_id(1), task_id(2)])) == 2
        await end(FIRST)
        assert await prune() == [None, None, None]
        assert await stage.broker.reader.results([task_id(1), task_id(2)]) == []
        assert await workflows.unadvanced(5) == [SECOND]

    async def test_who_waits_for_a_part_is_told(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(parts=(part(),)), now=at(0))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                await workflows.advance([PART], Deciding(goes_on(PART, status="COMPLETED")), now=at(1))
                assert await heard(finished, {PART})
