"""What is stored of a workflow: read again in pieces, kept within bounds, and refused when it was changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_samples import APP, order, spec_for

from horsies._workflow.advance import stored_workflow as module
from horsies._workflow.advance.stored_workflow import MissingError, SpecReader, StoredSpec, plan_of, stored
from horsies._workflow.definition.spec import NodeSpec, Spec, encode, sealed
from horsies._workflow.definition.validate import resolve
from horsies.abc import HEAD, Range, Slice, WorkflowRow

ONE = resolve(spec_for(order, APP, 42, "EUR"), APP).nodes[0]


def spec_with(sizes: list[int], child: Spec | None = None) -> Spec:
    """Nodes in a row, whose arguments have these sizes; the last one is a workflow if one is given."""
    nodes: list[NodeSpec] = []
    for index, size in enumerate(sizes):
        needs = (index - 1,) if index else ()
        arguments: dict[str, Any] = {"data": bytes([index % 256]) * size} if size else {}
        fields = {"node_id": f"n{index}", "arguments": arguments, "injected": {}, "needs": needs, "context": ()}
        nodes.append(msgspec.structs.replace(ONE, **fields))
    if child is not None:
        nodes[-1] = msgspec.structs.replace(nodes[-1], kind="workflow", arguments={}, child=child, retry=None)
    return Spec(
        name="w", version=1, nodes=tuple(nodes), output=None, on_error="fail", success=(), optional=(), within=()
    )


def row_of(data: bytes) -> WorkflowRow:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkflowRow("id", b"sha", "w", 1, data[:HEAD], b"", "RUNNING", at, None, None)


def slices_of(data: bytes, ranges: tuple[Range, ...]) -> tuple[Slice, ...]:
    return tuple((offset, data[offset : offset + length]) for offset, length in ranges)


def read(reader: SpecReader, data: bytes) -> tuple[StoredSpec, tuple[Slice, ...]]:
    """The spec, and what was read for it beside the head."""
    row = row_of(data)
    try:
        return reader(row), ()
    except MissingError as missing:
        slices = slices_of(data, missing.ranges)
        return reader(row, slices), slices


def filled(data: bytes, found: StoredSpec, indexes: list[int], slices: tuple[Slice, ...] = ()) -> Spec:
    row = row_of(data)
    try:
        return found.filled(indexes, row, slices)
    except MissingError as missing:
        return found.filled(indexes, row, tuple(sorted((*slices, *slices_of(data, missing.ranges)))))


sizes = st.lists(st.sampled_from([0, 1, 300, 5_000, HEAD, 40_000]), min_size=1, max_size=12)


@given(sizes, st.data(), st.booleans())
def test_nodes_are_read_one_by_one_as_they_were_written(given: list[int], chosen: st.DataObject, inside: bool) -> None:
    child = spec_with([7, 20_000], spec_with([1])) if inside else None
    spec, data = sealed(spec_with(given, child))
    kept = stored(spec, data)
    found, slices = read(SpecReader(), kept)
    assert found.plan == plan_of(spec)
    indexes = chosen.draw(st.lists(st.integers(0, len(given) - 1), unique=True))
    whole = filled(kept, found, indexes, slices)
    for index in indexes:
        assert whole.nodes[index] == spec.nodes[index]
    for bare, full in zip(found.spec.nodes, spec.nodes, strict=True):
        assert (bare.child is None) is (full.child is None)
        assert (bare.node_id, bare.needs, bare.queue) == (full.node_id, full.needs, full.queue)
    if len(data) <= HEAD:
        assert kept == data
        assert found.spec == spec


def test_plan_is_read_without_arguments() -> None:
    spec, data = sealed(spec_with([1 << 20, 1 << 20, 3]))
    kept = stored(spec, data)
    found, slices = read(SpecReader(), kept)
    assert slices == ()
    with pytest.raises(MissingError) as missing:
        found.filled([2], row_of(kept), ())
    ((offset, length),) = missing.value.ranges
    assert offset > 2 << 20
    assert length < 100


def test_plan_that_is_longer_than_the_head_is_read_once() -> None:
    kept = stored(*sealed(spec_with([1] * 2_000)))
    reader = SpecReader()
    found, slices = read(reader, kept)
    assert sum(len(data) for _, data in slices) > HEAD
    assert reader(row_of(kept)) is found
    # As many pieces as are wanted come together, out of the middle as well.
    assert filled(kept, found, list(range(0, 2_000, 3)), slices).nodes[999].arguments == {"data": bytes([999 % 256])}


def test_old_specs_are_read_as_a_whole() -> None:
    spec, data = sealed(spec_with([HEAD, HEAD, 3]))
    reader = SpecReader()
    found, slices = read(reader, data)
    assert slices == ((HEAD, data[HEAD:]),)
    assert found.spec == spec
    assert found.filled([0, 1, 2], row_of(data), ()) == spec
    assert reader(row_of(data)) is found
    exactly = sealed(spec_with([HEAD - (len(encode(spec_with([1]))) - 1 + 3)]))[1]
    for length in range(HEAD - 3, HEAD + 3):
        longer = spec_with([HEAD - 500])
        pad = length - len(encode(longer))
        longer = spec_with([HEAD - 500 + pad])
        data = encode(longer)
        assert len(data) == length
        assert read(SpecReader(), data)[0].spec == sealed(longer)[0]
    assert exactly


def test_changed_bytes_are_refused() -> None:
    kept = stored(*sealed(spec_with([1] * 2_000)))
    for at in (3, 20, 45, HEAD - 1, HEAD + 1):
        changed = bytes([*kept[:at], kept[at] ^ 1, *kept[at + 1 :]])
        with pytest.raises(ValueError, match="workflow"):
            read(SpecReader(), changed)
    short = stored(*sealed(spec_with([HEAD, 3])))
    found, slices = read(SpecReader(), short)
    with pytest.raises(ValueError, match="node"):
        filled(short[:-4] + b"\xc1\xc1\xc1\xc1", found, [1], slices)


def test_bytes_that_are_missing_are_not_asked_for_again() -> None:
    kept = stored(*sealed(spec_with([1] * 2_000)))
    with pytest.raises(ValueError, match="shorter"):
        read(SpecReader(), kept[: HEAD + 1])
    found, slices = read(SpecReader(), kept)
    with pytest.raises(ValueError, match="shorter"):
        filled(kept[:-1], found, [1_999], slices)


@pytest.mark.parametrize("large", [True, False])
def test_what_is_kept_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 200_000)
    reader = SpecReader()
    first = stored(*sealed(spec_with([HEAD] if large else [1_000])))
    for n in range(300):
        data = stored(*sealed(msgspec.structs.replace(spec_with([HEAD] if large else [1_000]), version=n + 2)))
        read(reader, data)
        read(reader, first)  # what is used stays
    info = reader.cache_info()
    assert info.bytes <= 200_000
    assert info.currsize < 300
    assert info.hits >= 299
    reader.cache_clear()
    assert reader.cache_info() == (0, 0, 0, 0)


def test_one_that_is_larger_than_the_bound_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 1)
    reader = SpecReader()
    for _ in range(2):
        kept = stored(*sealed(spec_with([1] * 2_000)))
        read(reader, kept)
        assert reader(row_of(kept))
        assert reader.cache_info().currsize == 1
        read(reader, encode(spec_with([1])))
        assert reader.cache_info().currsize == 1
