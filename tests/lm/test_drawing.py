import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from lm.autograd import MLP, Value, graph
from lm.drawing import BOX_HEIGHT, GAP, RADIUS, layout, to_dot, to_svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def lecture() -> Value:
    """(a * b + c) * f, after its backward pass."""
    a, b, c, f = Value(2.0, "a"), Value(-3.0, "b"), Value(10.0, "c"), Value(-2.0, "f")
    result = (a * b + c) * f
    result.label = "L"
    result.backward()
    return result


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_dot_text_has_each_value_with_its_gradient_and_each_operation(lecture: Value) -> None:
    assert to_dot(lecture).splitlines() == [
        "digraph {",
        "  rankdir=LR",
        "  node [shape=record]",
        '  v0 [label="{f | data -2.0000 | grad 4.0000}"]',
        '  v1 [label="{c | data 10.0000 | grad -2.0000}"]',
        '  v2 [label="{b | data -3.0000 | grad -4.0000}"]',
        '  v3 [label="{a | data 2.0000 | grad 6.0000}"]',
        '  v4 [label="{data -6.0000 | grad -2.0000}"]',
        '  o4 [label="*" shape=circle]',
        "  o4 -> v4",
        "  v3 -> o4",
        "  v2 -> o4",
        '  v5 [label="{data 4.0000 | grad -2.0000}"]',
        '  o5 [label="+" shape=circle]',
        "  o5 -> v5",
        "  v4 -> o5",
        "  v1 -> o5",
        '  v6 [label="{L | data -8.0000 | grad 1.0000}"]',
        '  o6 [label="*" shape=circle]',
        "  o6 -> v6",
        "  v5 -> o6",
        "  v0 -> o6",
        "}",
    ]


def test_the_svg_is_well_formed_and_has_the_same_boxes_circles_and_lines(lecture: Value) -> None:
    svg = to_svg(lecture)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}rect"))) == 7 + 1  # and the white ground
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    assert len(list(root.iter(f"{SVG}line"))) == 3 + 6
    assert sorted(texts(svg)) == sorted(
        [
            "L | data -8.0000 | grad 1.0000",
            "data 4.0000 | grad -2.0000",
            "data -6.0000 | grad -2.0000",
            "a | data 2.0000 | grad 6.0000",
            "b | data -3.0000 | grad -4.0000",
            "c | data 10.0000 | grad -2.0000",
            "f | data -2.0000 | grad 4.0000",
            "*",
            "*",
            "+",
        ]
    )


def test_the_svg_refers_to_nothing_outside_itself(lecture: Value) -> None:
    assert re.findall(r"https?://[^\"]*", to_svg(lecture)) == ["http://www.w3.org/2000/svg"]


def test_labels_that_mean_something_to_svg_or_dot_are_only_text() -> None:
    value = Value(1.0, label='a<b & "c" | {d} > \\e')
    assert texts(to_svg(value)) == [f"{value.label} | data 1.0000 | grad 0.0000"]
    assert r'label="{a\<b & \"c\" \| \{d\} \> \\e | data' in to_dot(value)


def test_in_a_network_no_two_boxes_or_circles_overlap_and_all_lie_in_the_picture() -> None:
    [out] = MLP(2, [3, 2, 1], hidden="sigmoid")([1.0, -2.0])
    boxes = layout(out)
    assert set(boxes) == set(graph(out))
    shapes = [(box.left, box.right, box.middle, BOX_HEIGHT / 2) for box in boxes.values()]
    shapes += [(box.circle - RADIUS, box.circle + RADIUS, box.middle, RADIUS) for node, box in boxes.items() if node.op]
    for (left, right, middle, half), (left2, right2, middle2, half2) in itertools.combinations(shapes, 2):
        assert right <= left2 or right2 <= left or abs(middle - middle2) >= half + half2
    root = ElementTree.fromstring(to_svg(out))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(left >= 0 and right <= width for left, right, _, _ in shapes)
    assert all(middle - half >= 0 and middle + half <= height for _, _, middle, half in shapes)


def test_what_is_computed_stands_to_the_right_of_what_it_is_computed_from() -> None:
    [out] = MLP(2, [3, 1])([1.0, -2.0])
    boxes = layout(out)
    for node, box in boxes.items():
        for parent in node.parents:
            assert boxes[parent].right + GAP <= box.circle - RADIUS


def test_a_long_chain_is_drawn_without_recursion() -> None:
    total = Value(1.0)
    for _ in range(3000):
        total = total.relu()
    assert to_svg(total).count("<circle") == to_dot(total).count("shape=circle") == 3000
