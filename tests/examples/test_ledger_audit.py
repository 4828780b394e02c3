import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.ledger.audit import (
    ClientEvent,
    Outage,
    Period,
    ServerEvent,
    acknowledging_periods,
    audit,
    epochs_in_order,
    frozen_to_stopped_seconds,
    hook_seconds_in_outage,
    hook_times,
    longest_outage,
    lost_ids,
    main,
    parse_client_log,
    parse_server_log,
    primaries_at_once_max,
    read_client_log,
    read_server_log,
)
from examples.ledger.entries import is_entry_id, parse_entry, parse_page
from examples.ledger.errors import EntryRefused, LedgerMissing, LogDamaged
from examples.ledger.eventlog import EventLog
from examples.ledger.outage import WAITED_NS
from examples.ledger.store import Store

SECOND = 1_000_000_000


def acked(entry_id: str, at: float, *, amount: int = 1, waited: float = 0.0) -> ClientEvent:
    return ClientEvent("acknowledged", round(at * SECOND), entry_id, amount, round(waited * SECOND))


def failed(at: float) -> ClientEvent:
    return ClientEvent("failed", round(at * SECOND))


def a_server_log(instance_id: str, epoch: int, *events: tuple[str, float]) -> list[ServerEvent]:
    return [
        ServerEvent(
            event, round(at * SECOND), instance_id, pid=epoch + 100, epoch=epoch, entry_id=f"{instance_id}-{at}"
        )
        for event, at in events
    ]


def a_sound_failover() -> tuple[list[ClientEvent], list[list[ServerEvent]], dict[str, int]]:
    client = [acked("w1", 1), acked("w2", 2), failed(2.1), failed(2.5), acked("w3", 3), acked("w4", 4)]
    servers = [
        a_server_log(
            "i-a", 1, ("serving", 0), ("acknowledged", 1), ("acknowledged", 2), ("frozen", 2.1), ("stopped", 5)
        ),
        a_server_log("i-b", 2, ("serving", 2.8), ("acknowledged", 3), ("acknowledged", 4)),
    ]
    return client, servers, dict.fromkeys(("w1", "w2", "w3", "w4"), 1)


def test_a_sound_failover_is_clean() -> None:
    client, servers, final = a_sound_failover()
    verdict = audit([client], servers, final)
    assert verdict.is_clean
    assert (verdict.acknowledged_writes, verdict.lost_writes, verdict.primaries_at_once_max) == (4, 0, 1)
    assert verdict.longest_gap_seconds == 1.0
    assert verdict.frozen_to_stopped_seconds == pytest.approx(2.9)


def test_a_lost_write_is_found() -> None:
    client, servers, final = a_sound_failover()
    del final["w2"]
    verdict = audit([client], servers, final)
    assert verdict.lost_ids == ("w2",)
    assert not verdict.is_clean


def test_an_altered_write_is_found() -> None:
    client, servers, final = a_sound_failover()
    verdict = audit([client], servers, {**final, "w2": 999})
    assert (verdict.lost_writes, verdict.altered_writes) == (0, 1)
    assert not verdict.is_clean


def test_an_old_primary_that_acknowledges_once_more_is_found() -> None:
    client, servers, final = a_sound_failover()
    servers[0] = a_server_log("i-a", 1, ("serving", 0), ("acknowledged", 1), ("acknowledged", 2), ("acknowledged", 3.5))
    verdict = audit([client], servers, final)
    assert verdict.primaries_at_once_max == 2
    assert not verdict.epochs_in_order
    assert not verdict.is_clean


def test_an_acknowledgement_while_frozen_is_found_although_nothing_overlaps() -> None:
    client, servers, final = a_sound_failover()
    servers[0].insert(4, replace(servers[0][2], boot_ns=round(2.2 * SECOND)))
    verdict = audit([client], servers, final)
    assert (verdict.primaries_at_once_max, verdict.acknowledged_while_closed) == (1, 1)
    assert not verdict.is_clean


def test_an_acknowledgement_while_frozen_cannot_hide_from_the_overlap() -> None:
    client, servers, final = a_sound_failover()
    servers[0].insert(4, replace(servers[0][2], boot_ns=round(3.5 * SECOND)))
    assert audit([client], servers, final).primaries_at_once_max == 2


def test_an_older_epoch_that_comes_back_is_found_although_nothing_overlaps() -> None:
    client, servers, final = a_sound_failover()
    servers[0] += [replace(event, boot_ns=event.boot_ns + 9 * SECOND) for event in servers[0][:2]]
    verdict = audit([client], servers, final)
    assert verdict.primaries_at_once_max == 1
    assert not verdict.epochs_in_order
    assert not verdict.is_clean


def test_a_thawed_primary_starts_a_new_period() -> None:
    log = a_server_log(
        "i-a",
        1,
        ("serving", 0),
        ("acknowledged", 1),
        ("frozen", 2),
        ("thawed", 5),
        ("acknowledged", 6),
        ("acknowledged", 7),
    )
    periods, stray = acknowledging_periods([log])
    assert [(period.first_ns // SECOND, period.last_ns // SECOND) for period in periods] == [(1, 1), (6, 7)]
    assert stray == 0


@given(acknowledged=st.sets(st.text(max_size=3)), others=st.sets(st.text(max_size=3)), data=st.data())
def test_exactly_what_is_missing_is_lost(acknowledged: set[str], others: set[str], data: st.DataObject) -> None:
    dropped = {entry_id for entry_id in sorted(acknowledged) if data.draw(st.booleans())}
    assert set(lost_ids(acknowledged, (acknowledged - dropped) | (others - dropped))) == dropped


periods_of_processes = st.lists(
    st.builds(
        lambda process, first, length: Period(f"i-{process}", process, 1, first, first + length),
        st.integers(0, 4),
        st.integers(0, 30),
        st.integers(0, 10),
    ),
    max_size=8,
)


@given(periods_of_processes)
def test_primaries_at_once_are_those_that_share_a_moment(periods: list[Period]) -> None:
    sharing = [
        len({period.pid for period in periods if period.first_ns <= moment <= period.last_ns}) for moment in range(41)
    ]
    assert primaries_at_once_max(periods) == max(sharing)


@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=6), data=st.data())
def test_an_overlap_is_found_wherever_it_is_put(lengths: list[int], data: st.DataObject) -> None:
    logs: list[list[ServerEvent]] = []
    at = 0
    for epoch, length in enumerate(lengths):
        events = [
            ("serving", at),
            *[("acknowledged", at + 1 + n) for n in range(length + 1)],
            ("frozen", at + length + 2),
        ]
        logs.append(a_server_log(f"i-{epoch}", epoch, *events))
        at += length + 3
    assert audit([], logs, {}).primaries_at_once_max == 1
    late = data.draw(st.integers(0, len(lengths) - 2), label="the primary that does not end")
    successor = next(event for event in logs[late + 1] if event.event == "acknowledged")
    logs[late].insert(-1, replace(logs[late][1], boot_ns=successor.boot_ns))
    verdict = audit([], logs, {})
    assert verdict.primaries_at_once_max == 2
    assert not verdict.is_clean


def slow_outage(log: Sequence[ClientEvent]) -> int:
    """The definition, spelled out without a running state."""
    acks = [position for position, event in enumerate(log) if event.event == "acknowledged"]
    failures = [position for position, event in enumerate(log) if event.event == "failed"]
    if not acks:
        return log[failures[-1]].boot_ns - log[failures[0]].boot_ns if failures else 0
    gaps = [0]
    for one, other in pairwise(acks):
        had_trouble = any(one < position < other for position in failures) or (log[other].waited_ns or 0) > WAITED_NS
        if had_trouble:
            gaps.append(log[other].boot_ns - log[one].boot_ns)
    gaps += [log[position].boot_ns - log[acks[-1]].boot_ns for position in failures if position > acks[-1]]
    return max(gaps)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acknowledged", "failed", "started"]), st.integers(0, SECOND), st.sampled_from([0, 1])
        ),
        max_size=20,
    )
)
def test_the_longest_gap_is_what_its_definition_says(steps: list[tuple[str, int, int]]) -> None:
    log: list[ClientEvent] = []
    now = 0
    for event, pause, is_slow in steps:
        now += pause
        log.append(ClientEvent(event, now, "id", 1, WAITED_NS + is_slow))
    assert longest_outage(log).seconds == slow_outage(log) / 1e9


def test_a_slow_rate_is_no_outage() -> None:
    assert longest_outage([acked("a", 1), acked("b", 9)]).seconds == 0


def test_waiting_long_for_one_answer_is_an_outage() -> None:
    assert longest_outage([acked("a", 1), acked("b", 3, waited=1.9)]) == Outage(2.0, SECOND, 3 * SECOND)


def test_an_outage_that_never_ended_counts() -> None:
    assert longest_outage([acked("a", 1), failed(2), failed(8)]).seconds == 7


def test_what_came_before_the_first_acknowledgement_is_no_outage() -> None:
    assert longest_outage([failed(1), failed(5), acked("a", 6)]).seconds == 0


@given(
    hooks=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6),
    began=st.integers(0, 60),
    length=st.integers(0, 40),
)
def test_hooks_inside_the_outage_count_once(hooks: list[tuple[int, int]], began: int, length: int) -> None:
    outage = Outage(length, began * SECOND, (began + length) * SECOND)
    log = [ServerEvent("frozen", (start + took) * SECOND, "i-a", 1, 1, took_ns=took * SECOND) for start, took in hooks]
    covered = sum(
        any(start <= second < start + took for start, took in hooks) for second in range(began, began + length)
    )
    assert hook_seconds_in_outage(hook_times([log], outage), outage) == covered


def test_hooks_without_an_outage_take_nothing_from_it() -> None:
    log = [ServerEvent("frozen", SECOND, "i-a", 1, 1, took_ns=SECOND)]
    outage = longest_outage([acked("a", 1)])
    assert hook_seconds_in_outage(hook_times([log], outage), outage) == 0


def test_a_freeze_that_was_thawed_is_not_the_one_before_the_stop() -> None:
    thawed = a_server_log("i-a", 1, ("frozen", 1), ("thawed", 2), ("frozen", 5), ("stopped", 7))
    assert frozen_to_stopped_seconds([thawed]) == 2
    assert frozen_to_stopped_seconds([a_server_log("i-a", 1, ("frozen", 1), ("thawed", 2), ("stopped", 3))]) is None


def test_epochs_are_in_order_when_each_begins_after_the_last() -> None:
    assert epochs_in_order(a_sound_failover()[1])


def test_what_is_logged_is_what_is_read(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "deep" / "server.jsonl"), instance_id="i-a", epoch=3, pid=7)
    at_ns = log.append("acknowledged", id="ä-\n", seq=1, new=True)
    log.append("frozen", took_ns=12)
    log.close()
    first, second = read_server_log(tmp_path / "deep" / "server.jsonl")
    assert first == ServerEvent("acknowledged", at_ns, "i-a", 7, 3, "ä-\n")
    assert (second.event, second.took_ns) == ("frozen", 12)


def test_the_line_a_killed_writer_left_is_no_record_but_any_other_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "client.jsonl"
    log = EventLog(str(path), client="c")
    for number in range(3):
        log.append("acknowledged", id=f"c-{number}", amount=number, waited_ns=1)
    log.close()
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [event.entry_id for event in read_client_log(path)] == ["c-0", "c-1"]
    path.write_text("{" + whole)
    with pytest.raises(LogDamaged, match="line 1"):
        read_client_log(path)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"event":"acknowledged"}',
        '{"event":"acknowledged","boot_ns":true}',
        '{"event":"acknowledged","boot_ns":1.5}',
        '{"event":"acknowledged","boot_ns":1}',
        '{"event":"acknowledged","boot_ns":1,"id":7,"amount":1,"waited_ns":1,"instance_id":"i","pid":1,"epoch":1}',
        '{"event":"acknowledged","boot_ns":1,"id":"a","amount":"1","waited_ns":1,"instance_id":"i","pid":1}',
    ],
)
def test_a_log_that_is_not_one_is_refused(line: str) -> None:
    with pytest.raises(LogDamaged):
        parse_client_log([line + "\n"], name="client")
    with pytest.raises(LogDamaged):
        parse_server_log([line + "\n"], name="server")


@pytest.mark.parametrize(("keeps", "status"), [(3, 0), (2, 1)])
def test_the_command_ends_with_0_only_if_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keeps: int, status: int
) -> None:
    server = EventLog(str(tmp_path / "server.jsonl"), instance_id="i-a", epoch=1, pid=7)
    client = EventLog(str(tmp_path / "client.jsonl"), client="c")
    store = Store(str(tmp_path / "ledger.db"))
    server.append("serving")
    for number in range(3):
        server.append("acknowledged", id=f"c-{number}")
        client.append("acknowledged", id=f"c-{number}", amount=number, waited_ns=1)
    for number in range(keeps):
        store.add(f"c-{number}", number, epoch=1)
    store.close()
    files = ["--client-log", str(tmp_path / "client.jsonl"), "--server-log", str(tmp_path / "server.jsonl")]
    arguments = [*files, "--database", str(tmp_path / "ledger.db")]
    assert main(arguments) == status
    assert "lost writes" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["lost_writes"] == 3 - keeps
    with pytest.raises(LedgerMissing):
        main([*files, "--database", str(tmp_path / "nowhere.db")])


@settings(max_examples=50)
@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)))
def test_a_body_is_an_entry_or_names_what_is_wrong(body: bytes) -> None:
    try:
        entry = parse_entry(body)
    except EntryRefused as refusal:
        named = refusal.field
    else:
        named = "" if is_entry_id(entry.id) else "nothing"
    assert named != "nothing"


@given(
    entry_id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    amount=st.integers(-(2**63) + 1, 2**63 - 1),
    extra=st.dictionaries(st.text(), st.integers(), max_size=1),
)
def test_an_entry_is_an_id_and_an_amount_and_nothing_else(entry_id: str, amount: int, extra: dict[str, int]) -> None:
    fields = {"id": entry_id, "amount": amount}
    assert parse_entry(json.dumps(fields).encode()) == (entry_id, amount)
    surplus = {name: value for name, value in extra.items() if name not in fields}
    if surplus:
        with pytest.raises(EntryRefused):
            parse_entry(json.dumps({**fields, **surplus}).encode())


@given(st.text())
def test_a_query_is_a_page_or_is_refused(query: str) -> None:
    try:
        page = parse_page(query)
    except EntryRefused:
        return
    assert page.after >= 0
    assert 0 <= page.limit <= 1000
