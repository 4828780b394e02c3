"""Writes docs/failover.md's table from what the tests of every way to die have measured: `make failover-table`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
MEASURED: Final = ROOT / "build" / "failover.json"
DOCUMENT: Final = ROOT / "docs" / "failover.md"
BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"
HEADER: Final = (
    "| way | what happens | RTO, s | outage, s | of it hooks, s | lost writes | RPO, s | RPO recorded, s | promise |",
    "|---|---|---|---|---|---|---|---|---|",
)


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, one row per way, in the order of its letter."""
    rows = [
        "| "
        + " | ".join(
            (
                letter,
                str(one["what"]),
                _number(one["rto_seconds"]),
                _number(one["outage_seconds"]),
                _number(one["hook_seconds"]),
                "-" if one["lost_writes"] is None else str(one["lost_writes"]),
                _number(one["rpo_seconds"]),
                _number(one["recorded_rpo_seconds"]),
                str(one["promise"]),
            )
        )
        + " |"
        for letter, one in sorted(measured.items())
    ]
    return "\n".join((*HEADER, *rows))


def steps_table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the time went, in milliseconds, for each way in which a failover was completed."""
    names = ("claim", "open-handover", "promote", "serve", "move-traffic")
    rows = []
    for letter, one in sorted(measured.items()):
        taken = dict(one["steps"])
        if taken:
            rows.append("| " + " | ".join((letter, *(str(taken.get(name, "-")) for name in names))) + " |")
    return "\n".join((f"| way | {' | '.join(names)} |", "|---|" + "---|" * len(names), *rows))


def written(document: str, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with fresh tables.

    Raises:
        ValueError: It has no place for them.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT} lacks {BEGIN} or {END}")
    tables = f"{table(measured)}\n\nWhere the time went, in milliseconds:\n\n{steps_table(measured)}"
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main() -> int:
    """Print the table, and put it into the document.

    Returns:
        The exit status.
    """
    if not MEASURED.exists():
        print(f"{MEASURED} is missing; run: pytest tests/e2e/test_every_way_to_die.py", file=sys.stderr)
        return 1
    measured = json.loads(MEASURED.read_text())
    print(table(measured))
    DOCUMENT.write_text(written(DOCUMENT.read_text(), measured))
    return 0


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
