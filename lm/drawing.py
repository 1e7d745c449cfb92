"""The graph of a scalar computation as a picture: Graphviz's dot text, and SVG without Graphviz.

A box for each value (its label, its data, its gradient), a circle for the operation that made it, left to right: the
drawing of the micrograd lecture. The layout is the simplest of the layered ones (Sugiyama, Tagawa, Toda, *Methods for
Visual Understanding of Hierarchical System Structures*, 1981): columns by distance from the result, rows by the middle
of what stands to the right.

>>> from lm.autograd import Value
>>> a = Value(-3.0, label="a")
>>> print(to_dot(a.relu()))
digraph {
  rankdir=LR
  node [shape=record]
  v0 [label="{a | data -3.0000 | grad 0.0000}"]
  v1 [label="{data 0.0000 | grad 0.0000}"]
  o1 [label="relu" shape=circle]
  o1 -> v1
  v0 -> o1
}
"""

from dataclasses import dataclass
from xml.sax.saxutils import escape

from lm.autograd import Value, graph

CHAR_WIDTH = 7.5  # of the 12 pixel monospaced type, rounded up
BOX_HEIGHT = 26
ROW = 44  # from one row to the next
RADIUS = 19  # of the circle of an operation; "sigmoid" just fits
GAP = 30  # between a circle and its box, and between columns
MARGIN = 10


def cells(value: Value) -> list[str]:
    """What is written in a value's box."""
    return [*([value.label] if value.label else []), f"data {value.data:.4f}", f"grad {value.grad:.4f}"]


def to_dot(root: Value) -> str:
    """The graph that `root` was computed from, for Graphviz: `dot -Tsvg`."""
    nodes = graph(root)
    name_of = {node: i for i, node in enumerate(nodes)}
    lines = ["digraph {", "  rankdir=LR", "  node [shape=record]"]
    for node, i in name_of.items():
        lines.append(f'  v{i} [label="{{{" | ".join(_dot_escape(cell) for cell in cells(node))}}}"]')
        if node.op:
            lines += [f'  o{i} [label="{_dot_escape(node.op)}" shape=circle]', f"  o{i} -> v{i}"]
            lines += [f"  v{name_of[parent]} -> o{i}" for parent in node.parents]
    return "\n".join([*lines, "}"])


def _dot_escape(text: str) -> str:
    """A label in which nothing has a meaning to a record of Graphviz."""
    return "".join(f"\\{char}" if char in '\\"{}|<>' else char for char in text.replace("\n", " "))


@dataclass(frozen=True)
class Box:
    """Where a value is drawn, in pixels; x grows to the right, y down. The circle of its operation stands before it.

    Args:
        left: the left edge.
        middle: the height of its middle.
        width: the width.
    """

    left: float
    middle: float
    width: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.width

    @property
    def circle(self) -> float:
        """The middle of the operation's circle, from the left."""
        return self.left - GAP - RADIUS


def layout(root: Value) -> dict[Value, Box]:
    """Where each value of the graph is drawn; no two boxes overlap."""
    nodes = graph(root)
    distance = {root: 0}
    users: dict[Value, list[Value]] = {root: []}
    for node in reversed(nodes):  # each after all that use it
        for parent in node.parents:
            distance[parent] = max(distance.get(parent, 0), distance[node] + 1)
            users.setdefault(parent, []).append(node)
    columns: list[list[Value]] = [[] for _ in range(max(distance.values()) + 1)]
    for node in reversed(nodes):
        columns[distance[node]].append(node)
    rows = max(len(column) for column in columns)
    width = {node: CHAR_WIDTH * (len(" | ".join(cells(node))) + 2) for node in nodes}

    boxes: dict[Value, Box] = {}
    middle: dict[Value, float] = {}
    for column in columns:
        wished = {node: sum(middle[user] for user in users[node]) / max(1, len(users[node])) for node in column}
        column.sort(key=lambda node: wished[node])
        top = (rows - len(column)) * ROW / 2 + MARGIN + ROW / 2
        middle |= {node: top + i * ROW for i, node in enumerate(column)}
    left = float(MARGIN)
    for column in reversed(columns):
        if any(node.op for node in column):
            left += 2 * RADIUS + GAP
        boxes |= {node: Box(left, middle[node], width[node]) for node in column}
        left += max(width[node] for node in column) + GAP
    return boxes


def to_svg(root: Value) -> str:
    """The graph that `root` was computed from, as an SVG picture that any browser shows.

    >>> from lm.autograd import Value
    >>> to_svg(Value(2.0) * Value(3.0))[:41]
    '<svg xmlns="http://www.w3.org/2000/svg" w'
    """
    boxes = layout(root)
    wide = max(box.right for box in boxes.values()) + MARGIN
    high = max(box.middle for box in boxes.values()) + ROW / 2 + MARGIN
    lines, shapes = [], []
    for node, box in boxes.items():
        top = box.middle - BOX_HEIGHT / 2
        shapes.append(f'<rect x="{box.left:g}" y="{top:g}" width="{box.width:g}" height="{BOX_HEIGHT}"/>')
        shapes.append(_text(box.left + box.width / 2, box.middle, " | ".join(cells(node))))
        if node.op:
            lines.append(_line(box.circle + RADIUS, box.middle, box.left, box.middle))
            lines += [
                _line(boxes[parent].right, boxes[parent].middle, box.circle - RADIUS, box.middle)
                for parent in node.parents
            ]
            shapes.append(f'<circle cx="{box.circle:g}" cy="{box.middle:g}" r="{RADIUS}"/>')
            shapes.append(_text(box.circle, box.middle, node.op))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{high:g}" '
            f'viewBox="0 0 {wide:g} {high:g}" font-family="monospace" font-size="12">',
            f'<rect width="{wide:g}" height="{high:g}" fill="white"/>',
            '<g stroke="#888" fill="none">',
            *lines,
            "</g>",
            '<g stroke="black" fill="#f4f4f4">',
            *shapes,
            "</g>",
            "</svg>",
        ]
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def _text(x: float, y: float, text: str) -> str:
    """Text with its middle at x, y."""
    style = 'text-anchor="middle" dominant-baseline="central" stroke="none" fill="black"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'
