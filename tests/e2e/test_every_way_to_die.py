"""Every way in which a primary can die, several at once on one local AWS; what is measured goes to docs/failover.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from local.rehearsal import LedgerWorkload, Tenancy
from tests.e2e.ways import WAYS, Played, Way, may_cut_links

AT_ONCE = 3
LOSES = ("(f)", "(i)", "(j)", "(n)")
"""What was acknowledged last is lost."""

MEASURED = Path(__file__).resolve().parents[2] / "build" / "failover.json"


@pytest.fixture(scope="module")
def plays(
    tenancy: Tenancy, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Mapping[str, Future[Played]]]:
    """Every way that was asked for, being played."""
    wanted = {item.name.partition("[")[2].rstrip("]") for item in request.session.items}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="way") as pool:
        yield {
            way.letter: pool.submit(_play, way, tenancy, tmp_path_factory.mktemp("way"))
            for way in WAYS
            if way.letter in wanted
        }


def _play(way: Way, tenancy: Tenancy, folder: Path) -> Played:
    launched: list[LedgerWorkload] = []

    def launch(**changes: object) -> LedgerWorkload:
        name = "way-" + "".join(letter for letter in way.letter if letter.isalpha())
        workload = LedgerWorkload(tenancy, folder / "logs", name=name, rate=20.0, **changes)  # type: ignore[arg-type]
        launched.append(workload)
        workload.launch(seconds=120)
        workload.client.start()
        return workload

    try:
        return way.play(launch)
    finally:
        for workload in launched:
            workload.client.stop()
            workload.remove()


@pytest.mark.parametrize("letter", [way.letter for way in WAYS])
def test_a_primary_dies_and_what_is_promised_is_kept(plays: Mapping[str, Future[Played]], letter: str) -> None:
    way = next(way for way in WAYS if way.letter == letter)
    if way.letter == "(h)" and not may_cut_links():
        pytest.skip("needs root, and ip from Debian's iproute2: apt-get install iproute2")
    played = plays[letter].result()
    _write_down(way, played)
    verdict = played.verdict
    if verdict is not None:
        assert verdict.primaries_at_once_max == 1, verdict
        assert verdict.epochs_in_order, verdict
        assert verdict.altered_writes == 0 and verdict.acknowledged_while_closed == 0, verdict
        assert played.lost_seconds <= way.longest_loss_seconds, (played.lost_seconds, verdict)
    if played.recorded:
        assert played.recorded.keys() >= {"rto_seconds", "rpo_seconds"}, played.recorded
        assert played.recorded["steps"], played.recorded
        assert played.recorded["rpo_seconds"] >= played.lost_seconds, (played.lost_seconds, played.recorded)
        assert letter not in LOSES or played.recorded["rpo_bytes"] > 0, played.recorded
    facts = played.facts
    match letter:
        case "(a)":
            assert (facts["pools"], facts["epochs"]) == (2, 1)
        case "(b)":
            assert facts["took_over"]
        case "(d)":
            assert facts["lifecycle"] == "on-demand"
            assert facts["refused"] and all("Capacity" in outcome for outcome in facts["refused"])
        case "(g)":
            assert facts["went_on"] and facts["epochs"] == 0
        case "(h)":
            assert facts["went_on"]
        case "(i)":
            assert facts["fenced"]
        case "(n)":
            assert facts["epochs"] == 1
            assert played.lost_seconds <= facts["since_snapshot"] + 0.1
            assert played.recorded["rpo_seconds"] > 0
            assert facts["restored"]
        case "(o)":
            assert facts == {"epochs": 0, "replicas": [], "ended": ["FAILED"]}
        case _:
            pass


def _write_down(way: Way, played: Played) -> None:
    """Keep what was measured, for `make failover-table`."""
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    verdict, recorded = played.verdict, played.recorded
    measured[way.letter] = {
        "what": way.what,
        "promise": way.promise,
        "rto_seconds": recorded.get("rto_seconds"),
        "outage_seconds": None if verdict is None else round(verdict.longest_gap_seconds, 2),
        "hook_seconds": None if verdict is None else round(verdict.hook_seconds, 2),
        "lost_writes": None if verdict is None else verdict.lost_writes,
        "rpo_seconds": None if verdict is None else round(played.lost_seconds, 2),
        "recorded_rpo_seconds": recorded.get("rpo_seconds"),
        "recorded_lag_seconds": recorded.get("lag_seconds"),
        "recorded_rpo_bytes": recorded.get("rpo_bytes"),
        "steps": recorded.get("steps", []),
        "longest_loss_seconds": way.longest_loss_seconds if math.isfinite(way.longest_loss_seconds) else None,
    }
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
