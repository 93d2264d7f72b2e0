"""The ids of the tasks of a workflow's nodes: the same whoever makes them, and they say which node and which run."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies._core.names import is_task_id
from horsies._payload.ids import new_task_id
from horsies._workflow.node_ids import MOST_NODES, MOST_RUNS, node_of, node_task_id

WORKFLOW = "0198f1a0-1234-7abc-8def-0123456789ab"

workflows = st.uuids().map(str)
nodes = st.integers(0, MOST_NODES - 1)
runs = st.integers(1, MOST_RUNS - 1)


@given(workflows, nodes, runs)
def test_an_id_says_which_node_and_which_run(workflow_id: str, node: int, run: int) -> None:
    task_id = node_task_id(workflow_id, node, run)
    assert node_of(task_id) == (node, run)
    assert is_task_id(task_id)
    assert task_id == str(UUID(task_id))
    assert (UUID(task_id).version, UUID(task_id).variant) == (8, RFC_4122)
    assert task_id[:13] == workflow_id[:13]


@given(workflows, workflows, nodes, nodes, runs, runs)
def test_each_run_of_each_node_of_each_workflow_has_its_own(
    one: str, other: str, node: int, later: int, run: int, again: int
) -> None:
    same = (one, node, run) == (other, later, again)
    assert (node_task_id(one, node, run) == node_task_id(other, later, again)) == same


@pytest.mark.parametrize(
    ("node", "run", "task_id"),
    [
        (0, 1, "0198f1a0-1234-8000-8007-e66a455b99e5"),
        (15, 2, "0198f1a0-1234-8000-bc0b-e66a455b99e5"),
        (16, 255, "0198f1a0-1234-8001-83ff-e66a455b99e5"),
        (0x1234, 0x56, "0198f1a0-1234-8123-915b-e66a455b99e5"),
        (65_535, 255, "0198f1a0-1234-8fff-bfff-e66a455b99e5"),
    ],
)
def test_the_ids_of_nodes_stay_what_they_are(node: int, run: int, task_id: str) -> None:
    assert node_task_id(WORKFLOW, node, run) == task_id


@pytest.mark.parametrize(("node", "run"), [(-1, 1), (MOST_NODES, 1), (0, 0), (0, MOST_RUNS)])
def test_there_are_no_more_nodes_and_runs_than_an_id_can_tell(node: int, run: int) -> None:
    with pytest.raises(ValueError, match="65,536 nodes, and each at most 255 runs"):
        node_task_id(new_task_id(), node, run)
