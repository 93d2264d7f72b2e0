"""A workflow as a picture: Mermaid, for pages that draw it themselves, and SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..._core.status import NodeStatus
from ..definition.spec import NodeSpec, Spec
from .layout import Layout, arranged

COLOURS: Mapping[NodeStatus | None, tuple[str, str]] = {
    None: ("#eef2f7", "#64748b"),
    NodeStatus.PENDING: ("#eef2f7", "#64748b"),
    NodeStatus.READY: ("#e0f2fe", "#0369a1"),
    NodeStatus.ENQUEUED: ("#dbeafe", "#1d4ed8"),
    NodeStatus.RUNNING: ("#fef3c7", "#b45309"),
    NodeStatus.COMPLETED: ("#dcfce7", "#15803d"),
    NodeStatus.FAILED: ("#fee2e2", "#b91c1c"),
    NodeStatus.SKIPPED: ("#f3f4f6", "#9ca3af"),
}
"""Fill and line of a node; dark text is read on each of them, on a light page as on a dark one."""

WIDTH, HEIGHT, BESIDE, BENEATH, MARGIN = 168, 44, 24, 44, 16
LONGEST = 24
"""Characters of a label; the whole of it is in the title, which browsers show."""


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """A node as it is drawn. `needs` are the indexes of those that it waits for; `join` says how many it needs."""

    node_id: str
    called: str
    needs: tuple[int, ...] = ()
    kind: str = "task"
    join: str = ""
    status: NodeStatus | None = None


@dataclass(frozen=True, slots=True)
class WorkflowGraph:
    """A workflow as a picture. `str()` of it is `mermaid`."""

    mermaid: str
    """Source of a Mermaid diagram."""
    svg: str
    """An SVG document, with colours by status."""

    def __str__(self) -> str:
        return self.mermaid

    def __repr__(self) -> str:
        return f"<WorkflowGraph, {len(self.svg)} bytes of SVG>"


def drawn(name: str, nodes: Sequence[DrawnNode]) -> WorkflowGraph:
    """The picture of a workflow."""
    return WorkflowGraph(_mermaid(nodes), _svg(name, nodes, arranged([node.needs for node in nodes])))


def drawn_nodes(spec: Spec, statuses: Sequence[NodeStatus] | None = None) -> list[DrawnNode]:
    """The nodes of a workflow, with where they stand if that is given."""
    return [
        DrawnNode(
            node.node_id,
            node.task_name,
            node.needs,
            node.kind,
            _join(node),
            None if statuses is None else statuses[index],
        )
        for index, node in enumerate(spec.nodes)
    ]


def _join(node: NodeSpec) -> str:
    if node.join:
        return f"{node.join} of {len(node.needs)}"
    return "all, failed or not" if node.allow_failed_deps else ""


def _mermaid(nodes: Sequence[DrawnNode]) -> str:
    shapes = {"task": ("[", "]"), "map": ("[/", "/]"), "workflow": ("[[", "]]")}
    lines = ["flowchart TD"]
    for index, node in enumerate(nodes):
        begin, end = shapes[node.kind]
        label = "<br/>".join(_mermaid_text(line) for line in _lines(node))
        style = "" if node.status is None else f":::{node.status.lower()}"
        lines.append(f'  n{index}{begin}"{label}"{end}{style}')
    for index, node in enumerate(nodes):
        lines += [f"  n{need} --> n{index}" for need in node.needs]
    for status in dict.fromkeys(node.status for node in nodes if node.status is not None):
        fill, line = COLOURS[status]
        lines.append(f"  classDef {status.lower()} fill:{fill},stroke:{line},color:#111827")
    return "\n".join(lines) + "\n"


def _mermaid_text(text: str) -> str:
    """Everything but letters, digits and what is harmless as a number, as Mermaid has it."""
    return "".join(one if one.isalnum() or one in " ._-:,()" else f"#{ord(one)};" for one in text)


def _lines(node: DrawnNode) -> list[str]:
    what = {"task": node.called, "map": f"each: {node.called}", "workflow": f"workflow: {node.called}"}[node.kind]
    return [node.node_id, f"{what} ({node.join})" if node.join else what]


def _svg(name: str, nodes: Sequence[DrawnNode], layout: Layout) -> str:
    columns = max((len(layer) for layer in layout.layers), default=0)
    width = MARGIN * 2 + max(1, columns) * (WIDTH + BESIDE) - BESIDE
    height = MARGIN * 2 + max(1, len(layout.layers)) * (HEIGHT + BENEATH) - BENEATH
    places: dict[int, tuple[float, int]] = {}
    for depth, layer in enumerate(layout.layers):
        indent = (width - len(layer) * (WIDTH + BESIDE) + BESIDE) / 2
        for place, index in enumerate(layer):
            places[index] = (indent + place * (WIDTH + BESIDE), MARGIN + depth * (HEIGHT + BENEATH))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{_text(name)}" font-family="system-ui, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#94a3b8"/></marker></defs>',
    ]
    for index, node in enumerate(nodes):
        parts += [_arrow(places[need], places[index]) for need in node.needs]
    parts += [_box(node, *places[index]) for index, node in enumerate(nodes)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(begin: tuple[float, int], end: tuple[float, int]) -> str:
    x, y = begin[0] + WIDTH / 2, begin[1] + HEIGHT
    to_x, to_y = end[0] + WIDTH / 2, end[1] - 2
    middle = (y + to_y) / 2
    return (
        f'<path d="M{x:g} {y:g}C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}" fill="none"'
        ' stroke="#94a3b8" stroke-width="1.5" marker-end="url(#tip)"/>'
    )


def _box(node: DrawnNode, x: float, y: float) -> str:
    fill, line = COLOURS[node.status]
    dashes = {"task": "", "map": ' stroke-dasharray="2 3"', "workflow": ' stroke-dasharray="6 3"'}[node.kind]
    first, second = _lines(node)
    status = "" if node.status is None else f" {node.status}"
    return (
        f"<g><title>{_text(f'{first}: {second}{status}')}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="{line}"{dashes}/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + 19:g}" text-anchor="middle" font-size="12" fill="#111827">'
        f"{_text(_short(first))}</text>"
        f'<text x="{x + WIDTH / 2:g}" y="{y + 35:g}" text-anchor="middle" font-size="10" fill="#374151">'
        f"{_text(_short(second))}</text></g>"
    )


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(text: str) -> str:
    return html.escape(_printable(text))


def _printable(text: str) -> str:
    """Without what XML cannot hold: control characters and the two that are no characters."""
    return "".join("\ufffd" if (ord(one) < 32 and one not in "\t\n") or one in "\ufffe\uffff" else one for one in text)
