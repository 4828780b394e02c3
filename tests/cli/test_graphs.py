from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotctl.graphs import BARS, bar, chart, sparkline, split

prices = st.lists(st.floats(min_value=0.001, max_value=1000), max_size=200)


@given(st.lists(st.integers(), max_size=200), st.integers(min_value=1, max_value=80))
def test_splitting_keeps_everything_in_order_and_the_parts_alike(values: list[int], parts: int) -> None:
    cut = split(values, parts)
    assert [value for part in cut for value in part] == values
    assert len(cut) == min(parts, len(values))
    if cut:
        assert max(map(len, cut)) - min(map(len, cut)) <= 1


@given(prices, st.integers(min_value=1, max_value=80))
def test_a_sparkline_fits_and_shows_its_peak(values: list[float], width: int) -> None:
    line = sparkline(values, width=width)
    assert len(line) == min(width, len(values))
    columns = [max(part) for part in split(values, width)]
    if values and max(columns) > min(columns):
        assert line[columns.index(max(columns))] == BARS[-1]
        assert line[columns.index(min(columns))] == BARS[0]


def test_a_price_that_never_changes_is_a_flat_line() -> None:
    assert set(sparkline([0.1] * 30, width=10)) == {BARS[3]}
    assert sparkline([], width=10) == ""


@given(
    st.lists(st.none() | st.floats(min_value=0.001, max_value=1000), min_size=1, max_size=200),
    st.integers(min_value=1, max_value=80),
    st.integers(min_value=1, max_value=12),
)
def test_a_chart_is_a_rectangle_whose_gaps_are_empty(values: list[float | None], width: int, height: int) -> None:
    lines = chart(values, width=width, height=height)
    parts = split(values, width)
    assert len(lines) == height
    assert {len(line) for line in lines} == {len(parts)}
    for place, part in enumerate(parts):
        known = [value for value in part if value is not None]
        assert (lines[-1][place] == " ") == (not known)


def test_a_chart_shows_a_short_peak_as_short() -> None:
    lines = chart([1.0] * 9 + [2.0] + [1.0] * 10, width=2, height=3)
    assert lines[0] == "░ "
    assert lines[-1][0] in BARS


def test_a_steady_rise_rises() -> None:
    assert chart([1.0, 2.0, 3.0, 4.0], width=4, height=2) == ["  ▃█", "▁▅██"]


@pytest.mark.parametrize(
    ("percent", "drawn"), [(0, "░░░░"), (49.9, "██░░"), (100, "████"), (130, "████"), (-1, "░░░░")]
)
def test_a_bar_shows_how_much_is_done(percent: float, drawn: str) -> None:
    assert bar(percent, width=4) == drawn
