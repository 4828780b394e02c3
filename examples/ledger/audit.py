"""What really happened, computed from the logs of everybody who took part and from the ledger that is left.

All times are CLOCK_BOOTTIME, so the logs must come from processes of one host.
"""

import argparse
import http.client
import json
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, urlsplit

from examples.ledger.errors import LedgerMissing, LogDamaged, NotServing
from examples.ledger.eventlog import Record, Value, read_records
from examples.ledger.outage import OutageMeter


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One line of a client's log. `entry_id`, `amount` and `waited_ns` are None where the event has none."""

    event: str
    boot_ns: int
    entry_id: str | None = None
    amount: int | None = None
    waited_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One line of a server's log. `took_ns` is how long a hook took that ended with this event."""

    event: str
    boot_ns: int
    instance_id: str
    pid: int
    epoch: int
    entry_id: str | None = None
    took_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which one process acknowledged writes, from its first acknowledgement to its last."""

    instance_id: str
    pid: int
    epoch: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Outage:
    """The longest outage a client saw; zero long, and without a time, if it saw none."""

    seconds: float
    began_ns: int | None
    ended_ns: int | None


@dataclass(frozen=True, slots=True)
class HookTime:
    """How long one hook of one instance took, and how much of that lay inside the longest outage."""

    hook: str
    instance_id: str
    epoch: int
    ended_ns: int
    seconds: float
    seconds_in_outage: float


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdict.

    Attributes:
        acknowledged_writes: Different ids that clients were told are safe.
        lost_writes: How many of them the final ledger does not have.
        lost_ids: Which, in order.
        altered_writes: Acknowledged ids that the final ledger has with another amount.
        failed_attempts: Attempts of the clients that were not acknowledged.
        longest_gap_seconds: The longest outage any client saw, as `OutageMeter` defines it.
        hook_seconds: The part of that outage in which the workload's own hooks ran.
        frozen_to_stopped_seconds: From the last freeze to the end of that process, where its log has both.
        primaries_at_once_max: The most processes that were acknowledging at one moment.
        epochs_in_order: Whether no acknowledgement came under an epoch older than one that had already acknowledged.
        acknowledged_while_closed: Acknowledgements outside a serving period, which a sound server never gives.
        periods: When which process acknowledged, in order.
        hooks: Every hook that left a trace, in order.
    """

    acknowledged_writes: int
    lost_writes: int
    lost_ids: tuple[str, ...]
    altered_writes: int
    failed_attempts: int
    longest_gap_seconds: float
    hook_seconds: float
    frozen_to_stopped_seconds: float | None
    primaries_at_once_max: int
    epochs_in_order: bool
    acknowledged_while_closed: int
    periods: tuple[Period, ...]
    hooks: tuple[HookTime, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing altered, never two at once, no epoch turned back."""
        return (
            self.lost_writes == 0
            and self.altered_writes == 0
            and self.primaries_at_once_max <= 1
            and self.epochs_in_order
            and self.acknowledged_while_closed == 0
        )


_OPENS = ("serving", "thawed")
_CLOSES = ("frozen", "stopped")
_HOOKS = {
    "frozen": "freeze",
    "thawed": "thaw",
    "quiesced": "quiesce",
    "stopped": "stop",
    "restored": "restore",
    "healthy": "start",
}


def audit(
    client_logs: Sequence[Sequence[ClientEvent]],
    server_logs: Sequence[Sequence[ServerEvent]],
    final_entries: Mapping[str, int],
) -> Audit:
    """Compare what clients were told with what is left.

    Args:
        client_logs: One log per client, each in its own order.
        server_logs: One log per instance, each in its own order.
        final_entries: Amount by id, of the ledger that serves at the end.
    """
    acknowledged = {
        event.entry_id: event.amount
        for log in client_logs
        for event in log
        if event.event == "acknowledged" and event.entry_id is not None
    }
    lost = lost_ids(acknowledged, final_entries)
    outage = max(
        (longest_outage(log) for log in client_logs), key=lambda one: one.seconds, default=Outage(0.0, None, None)
    )
    periods, stray = acknowledging_periods(server_logs)
    hooks = hook_times(server_logs, outage)
    return Audit(
        acknowledged_writes=len(acknowledged),
        lost_writes=len(lost),
        lost_ids=lost,
        altered_writes=sum(1 for key, amount in acknowledged.items() if final_entries.get(key, amount) != amount),
        failed_attempts=sum(1 for log in client_logs for event in log if event.event == "failed"),
        longest_gap_seconds=outage.seconds,
        hook_seconds=hook_seconds_in_outage(hooks, outage),
        frozen_to_stopped_seconds=frozen_to_stopped_seconds(server_logs),
        primaries_at_once_max=primaries_at_once_max(periods),
        epochs_in_order=epochs_in_order(server_logs),
        acknowledged_while_closed=stray,
        periods=periods,
        hooks=hooks,
    )


def lost_ids(acknowledged: Iterable[str], final_ids: Iterable[str]) -> tuple[str, ...]:
    """The acknowledged ids that are in the ledger no more, in order."""
    return tuple(sorted(set(acknowledged) - set(final_ids)))


def longest_outage(log: Iterable[ClientEvent]) -> Outage:
    """The longest outage that one client saw."""
    meter = OutageMeter()
    for event in log:
        if event.event == "acknowledged":
            meter.note_acknowledgement(event.boot_ns, waited_ns=event.waited_ns or 0)
        elif event.event == "failed":
            meter.note_failure(event.boot_ns)
    return Outage(meter.longest_ns / 1e9, meter.longest_began_ns, meter.longest_ended_ns)


def acknowledging_periods(logs: Iterable[Iterable[ServerEvent]]) -> tuple[tuple[Period, ...], int]:
    """When which process acknowledged writes.

    A period lies between `serving` or `thawed` and `frozen` or `stopped`, or the end of what a killed process could
    log. Within it only the time from the first to the last acknowledgement counts.

    Returns:
        The periods by their beginning, and how many acknowledgements lay in none. Each of those is a period of its own
        as well, so that it cannot hide from `primaries_at_once_max`.
    """
    periods: list[Period] = []
    stray = 0
    for log in logs:
        spans: dict[tuple[str, int], list[ServerEvent]] = {}
        is_open: dict[tuple[str, int], bool] = {}
        for event in log:
            process = (event.instance_id, event.pid)
            if event.event in _OPENS or event.event in _CLOSES:
                periods += _period_of(spans.pop(process, []))
                is_open[process] = event.event in _OPENS
            elif event.event == "acknowledged" and is_open.get(process, False):
                spans.setdefault(process, []).append(event)
            elif event.event == "acknowledged":
                stray += 1
                periods += _period_of([event])
        for span in spans.values():
            periods += _period_of(span)
    return tuple(sorted(periods, key=lambda period: (period.first_ns, period.last_ns))), stray


def _period_of(span: Sequence[ServerEvent]) -> list[Period]:
    if not span:
        return []
    times = [event.boot_ns for event in span]
    return [Period(span[0].instance_id, span[0].pid, span[0].epoch, min(times), max(times))]


def primaries_at_once_max(periods: Iterable[Period]) -> int:
    """The most processes whose periods share a moment. A period includes both its ends."""
    # At the same moment beginnings (0) come before ends (1): periods that only touch have shared that moment.
    edges = sorted(
        edge
        for period in periods
        for edge in (
            (period.first_ns, 0, period.instance_id, period.pid),
            (period.last_ns, 1, period.instance_id, period.pid),
        )
    )
    active: dict[tuple[str, int], int] = {}
    most = 0
    for _, is_end, instance_id, pid in edges:
        process = (instance_id, pid)
        active[process] = active.get(process, 0) + (-1 if is_end else 1)
        if active[process] == 0:
            del active[process]
        most = max(most, len(active))
    return most


def epochs_in_order(logs: Iterable[Iterable[ServerEvent]]) -> bool:
    """Whether, over all instances together, acknowledgements never went back to an older epoch."""
    acknowledged = sorted(
        (event.boot_ns, event.epoch) for log in logs for event in log if event.event == "acknowledged"
    )
    return all(earlier[1] <= later[1] for earlier, later in pairwise(acknowledged))


def hook_times(logs: Iterable[Iterable[ServerEvent]], outage: Outage) -> tuple[HookTime, ...]:
    """Every hook that left a trace, from the start of its process to its effect, by its end."""
    times = [
        HookTime(
            hook=_HOOKS[event.event],
            instance_id=event.instance_id,
            epoch=event.epoch,
            ended_ns=event.boot_ns,
            seconds=event.took_ns / 1e9,
            seconds_in_outage=_overlap_ns((event.boot_ns - event.took_ns, event.boot_ns), outage) / 1e9,
        )
        for log in logs
        for event in log
        if event.event in _HOOKS and event.took_ns is not None
    ]
    return tuple(sorted(times, key=lambda time: time.ended_ns))


def hook_seconds_in_outage(hooks: Iterable[HookTime], outage: Outage) -> float:
    """How much of the outage passed while hooks ran; time in which two ran counts once."""
    total_ns = 0
    covered_until = 0
    for began_ns, ended_ns in sorted((hook.ended_ns - round(hook.seconds * 1e9), hook.ended_ns) for hook in hooks):
        total_ns += _overlap_ns((max(began_ns, covered_until), ended_ns), outage)
        covered_until = max(covered_until, ended_ns)
    return total_ns / 1e9


def _overlap_ns(span: tuple[int, int], outage: Outage) -> int:
    if outage.began_ns is None or outage.ended_ns is None:
        return 0
    return max(0, min(span[1], outage.ended_ns) - max(span[0], outage.began_ns))


def frozen_to_stopped_seconds(logs: Iterable[Iterable[ServerEvent]]) -> float | None:
    """From the last freeze that was not thawed to the end of that process; None where no log has both."""
    latest: tuple[int, float] | None = None
    for log in logs:
        frozen: dict[tuple[str, int], int] = {}
        for event in log:
            process = (event.instance_id, event.pid)
            if event.event == "frozen":
                frozen.setdefault(process, event.boot_ns)
            elif event.event == "thawed":
                frozen.pop(process, None)
            elif event.event == "stopped" and process in frozen:
                found = (event.boot_ns, (event.boot_ns - frozen[process]) / 1e9)
                latest = found if latest is None else max(latest, found)
    return None if latest is None else latest[1]


def parse_client_log(lines: Iterable[str], *, name: str) -> tuple[ClientEvent, ...]:
    """Read a client's log.

    Raises:
        LogDamaged: A line is no record, or an acknowledgement lacks its id or amount.
    """
    return tuple(
        ClientEvent(
            event=str(record["event"]),
            boot_ns=_whole(record, "boot_ns", name),
            entry_id=_text(record, "id", name) if record["event"] == "acknowledged" else None,
            amount=_whole(record, "amount", name) if record["event"] == "acknowledged" else None,
            waited_ns=_whole(record, "waited_ns", name) if record["event"] == "acknowledged" else None,
        )
        for record in read_records(lines, name=name)
    )


def parse_server_log(lines: Iterable[str], *, name: str) -> tuple[ServerEvent, ...]:
    """Read a server's log.

    Raises:
        LogDamaged: A line is no record, or does not say which process wrote it under which epoch.
    """
    return tuple(
        ServerEvent(
            event=str(record["event"]),
            boot_ns=_whole(record, "boot_ns", name),
            instance_id=_text(record, "instance_id", name),
            pid=_whole(record, "pid", name),
            epoch=_whole(record, "epoch", name),
            entry_id=_text(record, "id", name) if record["event"] == "acknowledged" else None,
            took_ns=_whole(record, "took_ns", name) if "took_ns" in record else None,
        )
        for record in read_records(lines, name=name)
    )


def _whole(record: Record, field: str, name: str) -> int:
    value: Value = record.get(field)
    if type(value) is not int:
        raise LogDamaged(f"{name}: expected {field} to be a whole number in {record}")
    return value


def _text(record: Record, field: str, name: str) -> str:
    value: Value = record.get(field)
    if not isinstance(value, str):
        raise LogDamaged(f"{name}: expected {field} to be a text in {record}")
    return value


def read_client_log(path: Path) -> tuple[ClientEvent, ...]:
    """Read a client's log from a file; see `parse_client_log`."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        return parse_client_log(lines, name=str(path))


def read_server_log(path: Path) -> tuple[ServerEvent, ...]:
    """Read a server's log from a file; see `parse_server_log`."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        return parse_server_log(lines, name=str(path))


def entries_of_server(url: str, *, timeout_seconds: float = 5.0) -> dict[str, int]:
    """Read amount by id from the ledger that serves at `url`, page by page.

    Raises:
        NotServing: It does not answer as a ledger does.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_seconds)
    found: dict[str, int] = {}
    after = 0
    try:
        while True:
            connection.request("GET", f"/entries?after={after}&limit=1000")
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise NotServing(f"{url} answered {response.status}: expected the ledger's entries")
            page = json.loads(body)
            if not page["entries"]:
                return found
            found.update((entry["id"], entry["amount"]) for entry in page["entries"])
            after = page["next_after"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise NotServing(f"{url} does not answer as a ledger does: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


def entries_of_database(path: Path) -> dict[str, int]:
    """Read amount by id from a ledger's database file, such as an image.

    Raises:
        LedgerMissing: There is no such file, or it is no ledger.
    """
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        try:
            return dict(connection.execute("SELECT id, amount FROM entries"))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerMissing(f"{path}: {error}; expected a ledger's database") from error


def render(verdict: Audit) -> str:
    """The verdict as a table."""
    frozen = verdict.frozen_to_stopped_seconds
    rows = [
        ("acknowledged writes", str(verdict.acknowledged_writes)),
        ("lost writes", str(verdict.lost_writes)),
        ("altered writes", str(verdict.altered_writes)),
        ("failed attempts", str(verdict.failed_attempts)),
        ("longest gap", f"{verdict.longest_gap_seconds:.3f} s"),
        ("of which in hooks", f"{verdict.hook_seconds:.3f} s"),
        ("frozen to stopped", "-" if frozen is None else f"{frozen:.3f} s"),
        ("primaries at once, at most", str(verdict.primaries_at_once_max)),
        ("epochs in order", "yes" if verdict.epochs_in_order else "NO"),
        ("acknowledged while closed", str(verdict.acknowledged_while_closed)),
    ]
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {value}" for label, value in rows]
    lines += [f"  lost: {entry_id}" for entry_id in verdict.lost_ids[:20]]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the verdict; exit 0 only if it is clean."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ledger audit", description="Find lost writes and double primaries in the logs."
    )
    parser.add_argument("--client-log", type=Path, action="append", required=True, help="may be given more than once")
    parser.add_argument("--server-log", type=Path, action="append", required=True, help="may be given more than once")
    final = parser.add_mutually_exclusive_group(required=True)
    final.add_argument("--url", help="the ledger that serves at the end")
    final.add_argument("--database", type=Path, help="or its database file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(arguments)
    verdict = audit(
        [read_client_log(path) for path in chosen.client_log],
        [read_server_log(path) for path in chosen.server_log],
        entries_of_server(chosen.url) if chosen.url else entries_of_database(chosen.database),
    )
    print(json.dumps(asdict(verdict), indent=2) if chosen.json else render(verdict))
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
