"""README.md and docs/spotctl.md show what the commands print; and what prices look like."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spot_optimizer import wiring
from spot_optimizer.demo_data import loading
from spot_optimizer.demo_data.scene import demo_pools, heartbeats, set_scene
from spot_optimizer.domain.uptime import HOUR, HourPassed
from spotctl.failures import ExitCode, NotUnderstood
from spotctl.times import read_time
from tests.adapters.tables import REGION
from tests.api.conftest import Http
from tests.cli.conftest import Spotctl
from tests.cli.served import ServedApi, serve
from tests.fakes.rehearsal import PlayedRehearsal

ROOT = Path(__file__).resolve().parents[2]
PAGES = {ROOT / "README.md": 2, ROOT / "docs" / "spotctl.md": 15}
"""Each with how many blocks it has at least."""

WRITE = "WALKTHROUGH"
"""In the environment: write the page anew instead of comparing. `make walkthrough` sets it."""

NOON = datetime(2026, 3, 8, 12, tzinfo=UTC)
EXAMPLE = "https://api.example.com"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_AGE = re.compile(r"\d+(\.\d)? (s|min|h|d)( \d+ (s|min|h))? ago")
_CHANGING = (
    (re.compile(r"spo_(operator|client)_[0-9a-f]{20}_[0-9a-f]{64}"), r"spo_\1_0f1e2d3c4b5a69788796_…"),
    (re.compile(r"\b[0-9a-f]{20}\b"), "0f1e2d3c4b5a69788796"),
    (re.compile(r"20\d\d-(?!03-0)\d\d-\d\d \d\d:\d\d:\d\d"), "2026-03-08 12:00:00"),
    (re.compile(r"/\S*/sign-in\.json"), "~/.config/spotctl/sign-in.json"),
)


@pytest.fixture(scope="module")
def demo(deployed: Http) -> Iterator[ServedApi]:
    """The demo as it was on a day in March, its workloads alive, behind the API's handlers."""
    loading.load(region=REGION, now=NOON, force=True, progress=lambda *_: None, prices_for=timedelta(days=1))
    for heartbeat in heartbeats(set_scene(REGION, NOON), datetime.now(UTC)):
        wiring.records().put_heartbeat(heartbeat)
    for hours in range(73):
        # Up all the time, but for the minute in which it was handed over.
        well = HOUR if hours != 48 else HOUR - timedelta(seconds=61)
        hour = NOON - hours * HOUR
        served = HourPassed(
            agent_id="agt-demo-orders",
            instance_id="i-0",
            hour=hour,
            passed_us=well // timedelta(microseconds=1),
            seen_at=hour + HOUR,
            passing=True,
            epoch=2,
        )
        wiring.uptime().keep(served)
    with pytest.MonkeyPatch.context() as patch, serve(deployed) as api:
        patch.setattr(wiring, "rehearsing", lambda: PlayedRehearsal(deployed.context))
        yield api


@pytest.fixture
def operator(demo: ServedApi, deployed: Http, tmp_path: Path) -> Spotctl:
    """Signed in."""
    home = {"XDG_CONFIG_HOME": str(tmp_path), "SPOTCTL_API_URL": None, "SPOTCTL_TOKEN": None}
    spotctl = Spotctl({**home, "COLUMNS": "120"})
    assert spotctl("sign-in", demo.url, say=f"{deployed.admin}\n").status == 0
    return spotctl


def shown(text: str, api_url: str) -> str:
    """Output as the page shows it: with the same ids, times and secrets each time, and as wide as it was."""
    text = text.replace(api_url, EXAMPLE)
    for changing, sample in _CHANGING:
        text = changing.sub(sample, text)
    text = _AGE.sub(lambda age: ("3 min ago" if len(age[0]) > 8 else "3 s ago").ljust(len(age[0])), text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def same(text: str) -> str:
    """Output without what depends on the width of what was replaced."""
    return re.sub(r"3 (s|min) ago", "3 s ago", re.sub(r"[ ─]+", " ", text))


def run(block: str, spotctl: Spotctl, api: ServedApi, token: str) -> str:
    """A block of the page, with what its commands print now."""
    status, lines = 0, []
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        lines.append(f"$ {command}")
        if command == "echo $?":
            lines.append(str(status))
            continue
        _, *arguments = shlex.split(command.replace(EXAMPLE, api.url))
        ended = spotctl(*arguments, say=f"{token}\n")
        status = ended.status
        lines.append(shown(ended.both, api.url))
    return "\n".join(filter(None, lines)) + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_shows_what_the_commands_print(operator: Spotctl, demo: ServedApi, deployed: Http, page: Path) -> None:
    written = page.read_text()
    blocks = _BLOCK.findall(written)
    assert len(blocks) >= PAGES[page]
    for block in blocks:
        printed = run(block, operator, demo, deployed.admin)
        if same(printed) == same(block):
            continue
        if os.environ.get(WRITE):
            written = written.replace(f"```console\n{block}```", f"```console\n{printed}```", 1)
        else:
            assert same(printed) == same(block), f"{page.name} differs; run `make walkthrough` and read what changed"
    if os.environ.get(WRITE):
        page.write_text(written)


# --- reports and examinations


def test_a_missed_target_ends_a_check_with_its_status(operator: Spotctl) -> None:
    well = ("metrics", "--agent", "agt-demo-orders", "--from", "2026-03-07T12:00", "--to", "2026-03-08T12:00")
    assert operator(*well, "--check").status == 0
    unseen = ("metrics", "--agent", "agt-demo-ledger", "--from", "2026-03-07T12:00", "--to", "2026-03-08T12:00")
    missed = operator(*unseen, "--check")
    assert missed.status == ExitCode.UNFINISHED
    assert "uptime is 0.000 %, expected 99.9 %" in missed.err
    assert operator(*unseen).status == 0


def test_the_json_of_a_bad_examination_is_whole_and_its_status_says_so(operator: Spotctl) -> None:
    ended = operator("doctor", "agt-demo-reports", "--json")
    assert ended.status == ExitCode.UNFINISHED
    assert json.loads(ended.out)["outcome"] == "failed"
    assert json.loads(ended.err)["exit_code"] == ExitCode.UNFINISHED


def test_savings_of_every_page_are_listed(operator: Spotctl, demo: ServedApi) -> None:
    period = ("--from", "2026-03-07T13:00", "--to", "2026-03-08T12:00")
    assert len(operator("savings", *period, "--json").document) == 4
    assert demo.asked[-1].query["limit"] == "10"
    assert len(operator("savings", *period, "--limit", "1", "--json").document) == 1


# --- prices


POOL, *_, GAPPED = (pool.pool_id for pool in demo_pools(REGION))
DAY = ("--from", "2026-03-07T12:00", "--to", "2026-03-08T12:00")


def test_pools_are_listed_with_their_latest_price_and_trend(operator: Spotctl) -> None:
    listed = operator("pools", "--json").document
    latest = {pool["pool_id"]: pool["latest"]["usd_per_hour"] for pool in listed if pool["latest"]}
    assert set(latest) == {pool.pool_id for pool in demo_pools(REGION)}
    row = next(line for line in operator("pools", "--trend").out.splitlines() if line.startswith(POOL))
    assert f"{float(latest[POOL]):.4f}" in row
    assert "0.7680" in row


def test_prices_are_drawn_between_the_lowest_and_the_highest(operator: Spotctl) -> None:
    series = operator("prices", POOL, *DAY, "--json").document
    prices = [float(point["usd_per_hour"]) for point in series["points"]]
    drawn = operator("prices", POOL, *DAY).out.splitlines()
    axis = [line.partition("┤")[0].strip() for line in drawn if "┤" in line]
    assert len(axis) == 8
    assert (float(axis[0]), float(axis[-1])) == (max(prices), min(prices))
    assert f"latest {series['points'][-1]['usd_per_hour']}" in drawn[-1]
    assert drawn[-2].split()[:2] == ["03-07", "12:00"]


def test_a_resolution_thins_and_points_can_be_listed(operator: Spotctl, demo: ServedApi) -> None:
    coarse = operator("prices", POOL, *DAY, "--resolution", "60", "--json").document
    assert demo.asked[-1].query["resolution"] == "60"
    assert len(coarse["points"]) <= 50 < coarse["buckets_priced"]
    listed = operator("prices", POOL, *DAY, "--resolution", "60", "--points").out
    assert listed.count("primary-agent") == len(coarse["points"])


def test_a_time_without_prices_says_so(operator: Spotctl) -> None:
    ended = operator("prices", POOL, "--from", "2026-02-01", "--to", "2026-02-02")
    assert ended.status == 0
    assert "gaps fill" in ended.out
    assert operator("prices", POOL, "--from", "2026-02-01", "--to", "2026-02-02", "--points").out == ""


def test_quality_tells_coverage(operator: Spotctl) -> None:
    quality = operator("quality", POOL, *DAY, "--json").document
    assert float(quality["coverage_percent"]) == 100
    assert "100.00 %" in operator("quality", POOL, *DAY).out


@pytest.mark.parametrize(
    ("command", "status", "name"),
    [
        (("prices", "us-east-1z.m5.large"), ExitCode.UNKNOWN, "PoolUnknown"),
        (("prices", "nowhere"), ExitCode.INVALID, "InvalidRequest"),
        (("prices", POOL, "--from", "2026-03-08", "--to", "2026-03-07"), ExitCode.INVALID, "InvalidRequest"),
        (("quality", POOL, "--from", "30d"), ExitCode.INVALID, "InvalidRequest"),
        (("gaps", "fill", POOL, "--from", "100d"), ExitCode.INVALID, "InvalidRequest"),
    ],
)
def test_what_the_api_refuses_about_prices_keeps_its_status(
    operator: Spotctl, command: tuple[str, ...], status: ExitCode, name: str
) -> None:
    problem = operator(*command, "--json").problem
    assert (problem["exit_code"], problem["type"].rpartition(":")[2]) == (status, name)


def test_filling_can_be_waited_for_and_tells_when_gaps_are_left(operator: Spotctl) -> None:
    assert operator("gaps", "fill", POOL, *DAY, "--wait").status == 0
    ended = operator("gaps", "fill", POOL, "--from", "2026-02-01", "--to", "2026-02-02", "--wait", "--within", "1")
    assert ended.status == ExitCode.UNFINISHED
    assert "288 of 288 buckets have no price" in ended.err


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90m", NOON - timedelta(minutes=90)),
        ("6h", NOON - timedelta(hours=6)),
        ("7d", NOON - timedelta(days=7)),
        ("2026-03-07", NOON - timedelta(hours=36)),
        ("2026-03-08T11:00", NOON - timedelta(hours=1)),
        ("2026-03-08T13:00+02:00", NOON - timedelta(hours=1)),
        ("2026-03-08T11:00Z", NOON - timedelta(hours=1)),
    ],
)
def test_times_are_read_as_people_write_them(text: str, meant: datetime) -> None:
    assert read_time(text, NOON) == meant


@pytest.mark.parametrize("text", ["yesterday", "h", "-3h", "3 h", "3w", "2026-13-01"])
def test_what_is_no_time_says_what_is(text: str) -> None:
    with pytest.raises(NotUnderstood, match="7d for that long ago"):
        read_time(text, NOON)
