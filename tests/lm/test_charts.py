import html
import math
import re
from xml.etree import ElementTree

import pytest

from lm.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Line, nice_ticks, short, svg, thin


def chart(*ys: float, **options: object) -> str:
    line = Line(label="a line", points=thin(enumerate(ys)))
    return svg(Chart(title="a title", lines=[line], x_label="step", **options))


def picture(text: str) -> ElementTree.Element:
    """The SVG of a figure; it must be well-formed."""
    return ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def path_of(text: str) -> list[tuple[float, float]]:
    points = picture(text).find("polyline").get("points").split()
    return [tuple(map(float, point.split(","))) for point in points]


def test_a_line_goes_from_edge_to_edge_and_upwards_for_greater_values() -> None:
    points = path_of(chart(1.0, 2.0, 3.0))
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    assert points[0][1] > points[1][1] > points[2][1]
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.1)
    assert all(TOP <= y <= HEIGHT for _, y in points)


def test_on_a_logarithmic_axis_equal_factors_are_equally_far_apart() -> None:
    points = path_of(chart(1.0, 10.0, 100.0, log=True))
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.1)
    assert len(path_of(chart(1.0, 0.0, -5.0, 100.0, log=True))) == 2


def test_a_mark_is_drawn_where_a_value_of_its_height_is() -> None:
    text = chart(-4.0, -3.0, -2.0, mark=-3.0)
    mark = next(line for line in picture(text).iter("line") if line.get("class") == "mark")
    assert float(mark.get("y1")) == float(mark.get("y2")) == path_of(text)[1][1]


def test_from_zero_has_zero_on_its_axis() -> None:
    labels = [node.text for node in picture(chart(5.0, 6.0, from_zero=True)).iter("text")]
    assert "0" in labels
    labels = [node.text for node in picture(chart(5.0, 6.0)).iter("text")]
    assert labels.count("0") == 1  # of x


EXTREMES = [[2.0], [3.0, 3.0], [1e-300, 2e-300], [1e199, -1e199], [5e-324, 1e199], [0.0], [-1.0, 1e-9]]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ys", EXTREMES)
def test_every_finite_line_is_drawn_within_the_picture(ys: list[float], log: bool) -> None:
    text = chart(*ys, log=log)
    if log and max(ys) <= 0:
        assert "No finite value" in text
        return
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", picture(text).find("polyline").get("points"))]
    assert all(math.isfinite(number) and 0 <= number <= WIDTH for number in numbers)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert len(path_of(chart(1.0, math.nan, 2.0, math.inf, -math.inf, 1e308))) == 2
    assert "No finite value to draw. a note" in chart(math.nan, note="a note")


def test_a_long_line_is_thinned_to_means_within_a_band() -> None:
    points = thin(((x, float(x % 2)) for x in range(200_000)), buckets=100)
    assert len(points) == 100
    assert all((point.y, point.low, point.high) == (0.5, 0, 1) for point in points)
    assert points[0].x == pytest.approx(999.5)
    assert thin([]) == []


def test_a_band_is_drawn_only_where_there_is_one() -> None:
    assert picture(chart(1.0, 2.0)).find("polygon") is None
    banded = svg(Chart(title="t", lines=[Line(label="l", points=thin(enumerate([1.0, 2, 3, 4]), 2))], x_label="x"))
    assert len(picture(banded).find("polygon").get("points").split()) == 4


def test_all_text_is_escaped() -> None:
    evil = "</svg><script>\"'&"
    lines = [Line(label=evil, points=thin([(1, 2)]), dots=True)] * 2
    text = svg(Chart(title=evil, lines=lines, x_label=evil, note=evil))
    assert "<script" not in text
    assert text.count(html.escape(evil)) >= 6
    picture(text)


def test_more_lines_than_colours_take_the_colours_again() -> None:
    lines = [Line(label=str(i), points=thin([(0, i), (1, i)])) for i in range(10)]
    classes = [line.get("class") for line in picture(svg(Chart(title="", lines=lines, x_label=""))).iter("polyline")]
    assert classes[0] == classes[8] == "line s0"


def test_ticks_are_round_few_and_between_the_bounds() -> None:
    for low, high in [(0, 1), (0.013, 0.017), (-7, 123456), (1e-9, 2e-9), (999, 1001), (-1e300, 1e300)]:
        ticks = nice_ticks(low, high, most=6)
        assert 2 <= len(ticks) <= 6
        assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in ticks)
        assert ticks == sorted(set(ticks))


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0, 9999, 10_000, 1.5e6, 0.001, -25_000)] == [
        "0",
        "9999",
        "10k",
        "1.5M",
        "0.001",
        "-25k",
    ]
