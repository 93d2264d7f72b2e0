"""Following up each end of a workflow's tasks once."""

from __future__ import annotations

from datetime import UTC
from uuid import UUID

import anyio
import pytest
from msgspec.structs import replace

from horsies.abc import HEAD, MOST_NEWS, BrokerError, Signal, Slice, Start, Step, TaskStatus, Topic, Workflows

from .stage import Stage, at, done, heard, new_task
from .workflows import FIRST, SECOND, Deciding, Given, begins, ended, goes_on, node, noting, task_id, workflow_id


class Advancing:
    """Following up each end of a workflow's tasks once."""

    async def test_an_advance_takes_all_marked_ends_and_writes_what_follows(
        self, stage: Stage, workflows: Workflows
    ) -> None:
        begun = [await ended(stage, workflows, id_, numbers) for id_, numbers in ((FIRST, (1, 2)), (SECOND, (3,)))]
        steps = (goes_on(SECOND, node(4, of=SECOND), state=b"\1"), goes_on(FIRST, node(5, queue="slow", due_in=2.0)))
        deciding = Deciding(*steps)
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work:
                answer = await workflows.advance([SECOND, FIRST, SECOND, workflow_id(3)], deciding, now=at(7))
                assert await heard(work, {"ready:fast", "delayed:slow"})
        assert answer == list(steps)
        # In the order of the ids, with the rows as they stood.
        assert [[news.row for news in given] for given in deciding.given] == [begun]
        completed = (TaskStatus.COMPLETED, None)
        assert deciding.ends == {FIRST: [(1, *completed), (2, *completed)], SECOND: [(3, *completed)]}
        assert await workflows.read(FIRST) == replace(begun[0], state=b"\0later")
        assert await workflows.read(SECOND) == replace(begun[1], state=b"\1")
        assert sorted(await workflows.tasks(SECOND)) == [
            (task_id(3), TaskStatus.COMPLETED, None),
            (task_id(4), TaskStatus.PENDING, None),
        ]
        assert [(await stage.row(n)).due_at for n in (4, 5)] == [at(7), at(9)]
        again = Deciding()
        await workflows.advance([FIRST, SECOND], again, now=at(8))
        assert again.ends == {FIRST: [], SECOND: []}

    async def test_what_has_no_step_stays_as_it_is_with_its_marks(self, stage: Stage, workflows: Workflows) -> None:
        first = await ended(stage, workflows, FIRST, (1,))
        await ended(stage, workflows, SECOND, (2,))
        step = goes_on(SECOND)
        assert await workflows.advance([FIRST, SECOND], Deciding(step), now=at(7)) == [step]
        assert await workflows.read(FIRST) == first
        assert await workflows.unadvanced(5) == [FIRST]
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(8))
        assert deciding.ends == {FIRST: [(1, TaskStatus.COMPLETED, None)]}

    async def test_nothing_but_what_was_named_is_advanced(self, stage: Stage, workflows: Workflows) -> None:
        await ended(stage, workflows, FIRST, (1,))
        second = await ended(stage, workflows, SECOND, (2,))
        await workflows.advance([FIRST], Deciding(goes_on()), now=at(7))
        assert await workflows.read(SECOND) == second
        assert await workflows.unadvanced(5) == [SECOND]

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED", "EXPIRED"])
    async def test_a_workflow_ends_once_and_whoever_waits_is_told(
        self, stage: Stage, workflows: Workflows, status: str
    ) -> None:
        begun = await ended(stage, workflows, FIRST, (1, 2))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                step = goes_on(status=status, error_code="A_CODE", cancel=(task_id(1),))
                assert await workflows.advance([FIRST], Deciding(step), now=at(7)) == [step]
                assert await heard(finished, {FIRST})
        after = replace(begun, state=b"\0later", status=status, finished_at=at(7), error_code="A_CODE")
        row = await workflows.read(FIRST)
        assert row == after
        assert row.finished_at is not None
        assert row.finished_at.tzinfo is UTC
        # Late ends are noted, and nothing else changes any more.
        for late in ("RUNNING", "FAILED"):
            step = goes_on(state=late.encode(), status=late, error_code="OTHER")
            assert await workflows.advance([FIRST], Deciding(step), now=at(9)) == [step]
            assert await workflows.read(FIRST) == replace(after, state=late.encode())

    async def test_a_workflow_that_goes_on_tells_nobody(self, stage: Stage, workflows: Workflows) -> None:
        for n in (1, 2, 3):
            await workflows.start(begins(workflow_id(n)), now=at(0))
        ends, has_ended = goes_on(SECOND, status="COMPLETED"), goes_on(workflow_id(3), status="FAILED")
        await workflows.advance([workflow_id(3)], Deciding(has_ended), now=at(0))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                await workflows.advance([FIRST], Deciding(goes_on(status="PAUSED", error_code="A_CODE")), now=at(1))
                await workflows.advance([workflow_id(3)], Deciding(has_ended), now=at(1))
                await workflows.advance([SECOND], Deciding(ends), now=at(1))
                assert set(await finished.receive()) <= {SECOND, ""}
        row = await workflows.read(FIRST)
        assert row is not None
        assert (row.status, row.finished_at, row.error_code) == ("PAUSED", None, "A_CODE")

    async def test_the_ends_of_what_has_ended_are_given_as_well(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1, now=at(0))).tasks
        await worker.start([Start(claimed.lease)], now=at(0))
        await workflows.advance([FIRST], Deciding(goes_on(status="CANCELLED")), now=at(1))
        await worker.finish([done(claimed.lease)], now=at(2))
        assert await workflows.unadvanced(5) == [FIRST]
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(3))
        assert deciding.ends == {FIRST: [(1, TaskStatus.COMPLETED, None)]}
        assert await workflows.unadvanced(5) == []

    async def test_tasks_are_cancelled_and_their_ends_marked(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1), node(2, priority=60), node(3, due_in=60.0), node(4, due_in=60.0)))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1)).tasks
        await worker.start([Start(claimed.lease)])
        running = UUID(claimed.lease.task_id).int
        waiting = 3 - running
        cancel = (task_id(3), task_id(running), task_id(waiting))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work, stage.broker.listen(Topic.FINISHED) as finished:
                await workflows.advance([FIRST], Deciding(goes_on(cancel=cancel)))
                assert await heard(work, {f"cancel:{task_id(running)}"})
                assert await heard(finished, {task_id(3), task_id(waiting)})
        row = await stage.row(running)
        assert (row.status, row.cancel_requested) == (TaskStatus.RUNNING, True)
        assert await stage.status(4) is TaskStatus.PENDING
        assert await workflows.unadvanced(5) == [FIRST]
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding)
        assert sorted(deciding.ends[FIRST]) == sorted(
            [(3, TaskStatus.CANCELLED, None), (waiting, TaskStatus.CANCELLED, None)]
        )

    async def test_what_is_put_in_and_cancelled_ends_at_once(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        await workflows.advance([FIRST], Deciding(goes_on(FIRST, node(2), cancel=(task_id(2),))), now=at(1))
        assert [await stage.status(n) for n in (1, 2)] == [TaskStatus.PENDING, TaskStatus.CANCELLED]
        assert (await stage.row(2)).finished_at == at(1)
        assert await workflows.unadvanced(5) == [FIRST]

    async def test_a_task_that_is_there_is_put_in_once(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        for sha in (node(1).sha, b"\1" * 32):
            await workflows.advance([FIRST], Deciding(goes_on(FIRST, node(1, sha=sha), node(2))), now=at(1))
        assert sorted(await workflows.tasks(FIRST)) == [(task_id(n), TaskStatus.PENDING, None) for n in (1, 2)]
        assert (await stage.row(1)).due_at == at(0)

    async def test_decision_reads_ranges_of_a_spec_before_it_is_written(
        self, stage: Stage, workflows: Workflows
    ) -> None:
        spec = bytes(range(256)) * (HEAD // 128)
        await ended(stage, workflows, FIRST, (1,))
        await workflows.start(begins(SECOND, node(2, of=SECOND), spec=spec), now=at(0))
        await stage.broker.control.cancel([task_id(2)], now=at(1))
        ranges = ((HEAD, 3), (5, 2), (len(spec) - 2, 2**30), (len(spec), 9))
        found: list[tuple[Slice, ...]] = []

        def decide(given: Given) -> list[Step]:
            first, second = given
            assert (second.row.spec, len(second.ended)) == (spec[:HEAD], 1)
            found.append(second.slices)
            assert first.slices == ()
            step = goes_on(FIRST, node(3))
            if not second.slices:
                return [step, goes_on(SECOND, node(4, of=SECOND), status="FAILED", reads=ranges[:1])]
            if len(second.slices) == 1:
                return [step, goes_on(SECOND, node(4, of=SECOND), status="FAILED", reads=ranges[1:])]
            return [step, goes_on(SECOND, node(5, of=SECOND))]

        steps = await workflows.advance([FIRST, SECOND], decide, now=at(7))
        pieces = tuple(sorted((start, spec[start : start + length]) for start, length in ranges))
        assert found == [(), ((HEAD, spec[HEAD : HEAD + 3]),), pieces]
        assert steps == [goes_on(FIRST, node(3)), goes_on(SECOND, node(5, of=SECOND))]
        row = await workflows.read(SECOND)
        assert row is not None
        assert (row.status, row.spec) == ("RUNNING", spec[:HEAD])
        assert sorted(task for task, *_ in await workflows.tasks(SECOND)) == [task_id(2), task_id(5)]
        assert await workflows.unadvanced(5) == []

    async def test_advance_takes_so_many_ends_and_signals_and_leaves_the_rest(
        self, stage: Stage, workflows: Workflows
    ) -> None:
        numbers = range(1, MOST_NEWS + 3)
        await workflows.start(begins(FIRST, *(node(n, due_in=3600.0) for n in numbers)), now=at(0))
        await stage.broker.control.cancel([task_id(n) for n in numbers], now=at(1))
        told = [f"{n}".encode() for n in range(MOST_NEWS + 3)]
        await workflows.start(begins(SECOND), now=at(0))
        await workflows.advance(
            [SECOND], Deciding(goes_on(SECOND, signals=tuple(Signal(FIRST, data) for data in told))), now=at(1)
        )
        seen: list[int] = []
        heard_of: list[bytes] = []
        more: list[bool] = []

        def decide(given: Given) -> list[Step]:
            (news,) = given
            seen.extend(UUID(end.task_id).int for end in news.ended)
            heard_of.extend(news.signals)
            more.append(news.has_more)
            assert max(len(news.ended), len(news.signals)) <= MOST_NEWS
            return [goes_on()]

        for _ in range(2):
            assert await workflows.unadvanced(5) == [FIRST]
            await workflows.advance([FIRST], decide, now=at(2))
        assert await workflows.unadvanced(5) == []
        assert sorted(seen) == list(numbers)
        assert heard_of == told
        assert more == [True, False]

    @pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), OSError("mine")])
    async def test_what_decide_raises_leaves_and_nothing_is_written(
        self, stage: Stage, workflows: Workflows, error: Exception
    ) -> None:
        begun = await ended(stage, workflows, FIRST, (1,))

        def refuse(given: Given) -> list[Step]:
            raise error

        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                await workflows.advance([FIRST], refuse, now=at(7))
            assert raised.value is error
            assert await workflows.read(FIRST) == begun
            assert await workflows.unadvanced(5) == [FIRST]
        assert await workflows.advance([FIRST], noting, now=at(8)) == [Step(FIRST, b"\0state\1", "RUNNING")]

    async def test_an_advance_is_written_as_a_whole_or_not(self, stage: Stage, workflows: Workflows) -> None:
        begun = [await ended(stage, workflows, id_, numbers) for id_, numbers in ((FIRST, (1, 2)), (SECOND, (3,)))]
        await stage.send(node(4))
        good = goes_on(FIRST, node(5), status="COMPLETED", cancel=(task_id(4),))
        for bad in (
            goes_on(SECOND, node(6, of=SECOND), node(7, of=SECOND, task_id="nonsense")),
            goes_on(SECOND, status="OTHER"),
        ):
            for steps in ((good, bad), (bad, good)):
                with pytest.raises(BrokerError) as raised:
                    await workflows.advance([FIRST, SECOND], Deciding(*steps), now=at(7))
                assert not raised.value.retryable
                assert [await workflows.read(id_) for id_ in (FIRST, SECOND)] == begun
                assert await workflows.unadvanced(5) == [FIRST, SECOND]
                assert await stage.status(4) is TaskStatus.PENDING
                assert await stage.broker.reader.results([task_id(5), task_id(6)]) == []
        assert await workflows.advance([FIRST], Deciding(good), now=at(7)) == [good]

    async def test_advances_at_once_follow_up_each_end_once(self, stage: Stage, workflows: Workflows) -> None:
        """As when the ends of siblings are written by many workers: whoever writes one advances."""
        numbers = range(1, 13)
        for id_, mine in ((FIRST, numbers[::2]), (SECOND, numbers[1::2])):
            await workflows.start(begins(id_, *(node(n, of=id_) for n in mine), state=b""), now=at(0))
        worker = await stage.worker()
        leases = [task.lease for task in (await worker.claim(12, now=at(0))).tasks]
        await worker.start([Start(lease) for lease in leases], now=at(0))

        async def end(n: int) -> None:
            assert await worker.finish([done(leases[n])], now=at(1)) == [True]
            await workflows.advance([FIRST, SECOND] if n % 2 else [SECOND, FIRST], noting, now=at(1))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for n in range(12):
                    group.start_soon(end, n)
        assert await workflows.unadvanced(5) == []
        rows = [await workflows.read(id_) for id_ in (FIRST, SECOND)]
        assert [sorted(row.state) for row in rows if row] == [list(numbers[::2]), list(numbers[1::2])]

    async def test_the_clock_of_the_database_says_when_it_ended(self, stage: Stage, workflows: Workflows) -> None:
        await stage.send(new_task(1), new_task(2))
        await stage.broker.control.cancel([task_id(1)])
        await workflows.start(begins())
        await workflows.advance([FIRST], Deciding(goes_on(status="COMPLETED")))
        await stage.broker.control.cancel([task_id(2)])
        row = await workflows.read(FIRST)
        before, after = [(await stage.row(n)).finished_at for n in (1, 2)]
        assert row is not None
        assert None not in (before, row.finished_at, after)
        assert before <= row.finished_at <= after  # type: ignore[operator]  # none of them is None
