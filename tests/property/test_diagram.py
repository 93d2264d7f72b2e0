"""Pictures of workflows: whatever a workflow consists of and is called, they can be read, and show all of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from horsies import NodeStatus
from horsies._workflow.view.diagram import HEIGHT, WIDTH, DrawnNode, drawn
from horsies._workflow.view.layout import arranged

LABELLED = re.compile(r'  n\d+(\[|\[/|\[\[)"[^"\[\]{}|`<>&]*<br/>[^"\[\]{}|`<>&]*"\W{1,2}(:::\w+)?')
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Of each node what it waits for; which node stands where says nothing of which comes first."""
    count = draw(st.integers(0, 20))
    places = draw(st.permutations(range(count)))
    needs: dict[int, tuple[int, ...]] = {}
    for number, place in enumerate(places):
        needs[place] = tuple(sorted(draw(st.sets(st.sampled_from(places[:number]), max_size=4)))) if number else ()
    return [needs[index] for index in range(count)]


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@st.composite
def workflows(draw: st.DrawFn) -> list[DrawnNode]:
    return [
        DrawnNode(
            draw(text),
            draw(text),
            needs,
            draw(st.sampled_from(["task", "map", "workflow"])),
            draw(st.sampled_from(["", "any", "2 of 3"])),
            draw(st.sampled_from([None, *NodeStatus])),
        )
        for needs in draw(graphs())
    ]


@settings(deadline=None)
@given(graphs())
def test_each_node_stands_beneath_all_that_it_waits_for(needs: list[tuple[int, ...]]) -> None:
    layers = arranged(needs).layers
    depths = {index: depth for depth, layer in enumerate(layers) for index in layer}
    assert sorted(depths) == list(range(len(needs)))
    assert sum(map(len, layers)) == len(needs)
    for index, some in enumerate(needs):
        assert depths[index] == max((depths[need] for need in some), default=-1) + 1


@settings(deadline=None)
@given(text, workflows())
@example('"><script>', [DrawnNode('a"]; click n0 b "x', "</text>&\0\x1f\ufffe#quot;`|", (), "task", "", None)])
def test_a_picture_can_be_read_and_shows_all(name: str, nodes: list[DrawnNode]) -> None:
    graph = drawn(name, nodes)
    assert graph == drawn(name, nodes)
    root = ET.fromstring(graph.svg)  # our own
    boxes = [box(rect) for rect in root.iter(f"{SVG}rect")]
    assert len(boxes) == len(nodes)
    assert len([one for one in boxes for other in boxes if one is not other and overlap(one, other)]) == 0
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(0 <= x <= width - WIDTH and 0 <= y <= height - HEIGHT for x, y in boxes)
    arrows = [path for path in root.findall(f"{SVG}path") if "marker-end" in path.attrib]
    assert len(arrows) == sum(len(node.needs) for node in nodes)
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "defs", "marker", "path", "g", "title", "rect", "text")
    }
    lines = str(graph).splitlines()
    assert lines[0] == "flowchart TD"
    shown = [line for line in lines if LABELLED.fullmatch(line)]
    assert len(shown) == len(nodes)
    edges = [tuple(map(int, match)) for line in lines for match in re.findall(r"^  n(\d+) --> n(\d+)$", line)]
    assert sorted(edges) == sorted((need, index) for index, node in enumerate(nodes) for need in node.needs)
    styles = [line for line in lines if line.startswith("  classDef")]
    assert len(lines) == 1 + len(nodes) + len(edges) + len(styles)


def box(rect: ET.Element) -> tuple[float, float]:
    return float(rect.attrib["x"]), float(rect.attrib["y"])


def overlap(one: Any, other: Any) -> bool:
    return abs(one[0] - other[0]) < WIDTH and abs(one[1] - other[1]) < HEIGHT


def test_a_chain_and_a_fan_of_a_thousand() -> None:
    chain = [() if n == 0 else (n - 1,) for n in range(1000)]
    assert arranged(chain).layers == tuple((n,) for n in range(1000))
    fan = [(), *[(0,)] * 1000, tuple(range(1, 1001))]
    assert [len(layer) for layer in arranged(fan).layers] == [1, 1000, 1]
