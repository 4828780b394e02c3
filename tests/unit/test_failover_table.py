"""The table of every way to die is written from what was measured, and from nothing else."""

from __future__ import annotations

import pytest

from bench.failover import BEGIN, END, table, written

MEASURED = {
    "(n)": {
        "what": "sudden death, no standby",
        "promise": "restored",
        "rto_seconds": 8.834,
        "outage_seconds": 9.43,
        "hook_seconds": 0.68,
        "lost_writes": 12,
        "rpo_seconds": 0.5,
        "recorded_rpo_seconds": 1.16,
        "steps": [["claim", 731], ["serve", 1423]],
    }
}


def test_each_way_has_a_row_whose_first_column_is_its_letter() -> None:
    row = table(MEASURED).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")][:4] == ["(n)", "sudden death, no standby", "8.8", "9.4"]


def test_writing_twice_is_writing_once() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = written(document, MEASURED)
    assert once == written(once, MEASURED)
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once
    assert "| (n) | 731 | - | - | 1423 | - |" in once


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        written("nothing", MEASURED)
