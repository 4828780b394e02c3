# ruff: noqa: PTH110, PTH118
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""The process that serves a ledger."""

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from examples.ledger import control
from examples.ledger.clock import boot_ns, process_started_boot_ns
from examples.ledger.entries import is_entry_id, parse_entry, parse_page
from examples.ledger.errors import EntryDiffers, EntryRefused, LedgerMissing, StillInFlight, WritesFrozen
from examples.ledger.eventlog import EventLog
from examples.ledger.gate import WriteGate
from examples.ledger.image import ImageTaker
from examples.ledger.settings import Settings
from examples.ledger.store import Entry, Store
from examples.ledger.wire import Json, Request, RequestUnreadable, Response, encode_response, problem, read_request

DRAIN_SECONDS = 5.0
IDLE_SECONDS = 75.0
# What was killed keeps its lock until the kernel has cleared it away; what was stopped may be having its image taken.
HANDED_OVER_SECONDS = 5.0
# A client that reads nothing must not hold up a freeze: an answer fits the socket's buffer, or the client is gone.
SEND_SECONDS = 1.0

type Send = Callable[[Response], None]


class LedgerServer:
    """Answers requests, from the network and from the control socket."""

    def __init__(self, settings: Settings, store: Store, log: EventLog) -> None:
        self._settings = settings
        self._store = store
        self._log = log
        self._gate = WriteGate()
        self._image = ImageTaker(settings.database_path, settings.image_path)
        self._health_seen = threading.Event()

    def answer_client(self, request: Request, send: Send) -> None:
        """Answer one request from the network."""
        match request.method, request.path.split("/")[1:]:
            case "POST", ["entries"]:
                self._add(request, send)
            case "GET", ["entries"]:
                send(self._list(request))
            case "GET", ["entries", entry_id]:
                send(self._find(entry_id))
            case "GET", ["health"]:
                send(self._health())
            case _, ["entries"]:
                send(problem(405, "expected GET or POST")._replace(allow="GET, POST"))
            case _, ["entries", _] | ["health"]:
                send(problem(405, "expected GET")._replace(allow="GET"))
            case _:
                send(problem(404, "expected /entries, /entries/<id>, or /health"))

    def answer_hook(self, request: Request, send: Send) -> None:
        """Answer one request from the control socket."""
        started_ns = int(request.headers.get(control.STARTED_HEADER) or boot_ns())
        try:
            match request.method, request.path:
                case "POST", "/freeze":
                    self._gate.freeze(within_seconds=DRAIN_SECONDS)
                    self._log.append("frozen", took_ns=boot_ns() - started_ns)
                    send(Response(200, {"frozen": True}))
                case "POST", "/thaw":
                    # Logged first, so that every acknowledgement in the log lies between a thaw and a freeze.
                    self._log.append("thawed", took_ns=boot_ns() - started_ns)
                    self._gate.thaw()
                    send(Response(200, {"frozen": False}))
                case "POST", "/quiesce":
                    taken = self._image.take()
                    if taken.changed:
                        self._log.append("quiesced", seq=taken.entries_up_to, took_ns=boot_ns() - started_ns)
                    send(Response(200, {"changed": taken.changed, "entries_up_to": taken.entries_up_to}))
                case "POST", "/stop":
                    send(Response(200, {"stopping": True}))
                    os.kill(os.getpid(), signal.SIGTERM)
                case _:
                    send(problem(404, "expected POST /freeze, /thaw, /quiesce, or /stop"))
        except (StillInFlight, WritesFrozen) as refusal:
            send(problem(503, str(refusal)))

    def stop(self) -> None:
        """Acknowledge nothing more, and say so in the log once nothing is in flight."""
        began_ns = self._log.append("stopping")
        try:
            self._gate.stop(within_seconds=DRAIN_SECONDS)
        except StillInFlight as left:
            self._log.append("stopped", took_ns=boot_ns() - began_ns, left=str(left))
        else:
            self._store.close()
            self._log.append("stopped", took_ns=boot_ns() - began_ns)

    def _add(self, request: Request, send: Send) -> None:
        try:
            new = parse_entry(request.body)
            with self._gate.one_write():
                entry, is_new = self._store.add(new.id, new.amount, epoch=self._settings.epoch)
                # The log comes before the answer: whatever a client was told is in the log of who told it.
                self._log.append("acknowledged", id=entry.id, seq=entry.seq, new=is_new)
                send(Response(201 if is_new else 200, {**_as_json(entry), "serving_epoch": self._settings.epoch}))
        except EntryRefused as refusal:
            send(problem(400, str(refusal), field=refusal.field, expected=refusal.expected))
        except EntryDiffers as conflict:
            send(problem(409, str(conflict), field="id", expected="a new id for a new entry"))
        except WritesFrozen as frozen:
            send(problem(503, str(frozen))._replace(retry_after_seconds=1))

    def _list(self, request: Request) -> Response:
        try:
            page = parse_page(request.query)
        except EntryRefused as refusal:
            return problem(400, str(refusal), field=refusal.field, expected=refusal.expected)
        entries = self._store.after(page.after, limit=page.limit)
        last = entries[-1].seq if entries else page.after
        return Response(200, {"entries": [_as_json(entry) for entry in entries], "next_after": last})

    def _find(self, entry_id: str) -> Response:
        entry = self._store.find(entry_id) if is_entry_id(entry_id) else None
        return problem(404, "no such entry") if entry is None else Response(200, _as_json(entry))

    def _health(self) -> Response:
        if not self._health_seen.is_set():
            self._health_seen.set()
            self._log.append("healthy", took_ns=boot_ns() - process_started_boot_ns())
        return Response(
            200,
            {
                "status": "ok",
                "frozen": self._gate.is_frozen,
                "epoch": self._settings.epoch,
                "instance_id": self._settings.instance_id,
            },
        )


def _as_json(entry: Entry) -> dict[str, Json]:
    return {"seq": entry.seq, "id": entry.id, "amount": entry.amount, "epoch": entry.epoch}


def serve(settings: Settings, *, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully. Call it on the main thread.

    Raises:
        AlreadyServing: Another process serves from the live folder.
        LedgerMissing: The live folder is empty but there is an image: nothing starts on empty state that has a past.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked in every thread, so that the signal waits for `sigwait` below, however early it comes.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    held = control.hold(settings.live_folder, within_seconds=HANDED_OVER_SECONDS)
    if not os.path.exists(settings.database_path) and _has_a_past(settings):
        held.release()
        raise LedgerMissing(f"no ledger at {settings.database_path}, but there is one to restore: run restore first")
    log = EventLog(settings.log_path, instance_id=settings.instance_id, epoch=settings.epoch, pid=os.getpid())
    log.append("starting", process_started_boot_ns=process_started_boot_ns())
    ledger = LedgerServer(settings, Store(settings.database_path), log)
    network = _Listener(_bound(settings.address, settings.port), ledger.answer_client)
    hooks = _Listener(control.listening_socket(settings.live_folder), ledger.answer_hook)
    # Logged before the first request can be answered, so that every acknowledgement lies within a serving period.
    log.append("serving", took_ns=boot_ns() - process_started_boot_ns())
    for listener in (network, hooks):
        threading.Thread(target=listener.accept_for_ever, daemon=True).start()
    announce(f"ledger: serving http://{settings.address}:{settings.port} at epoch {settings.epoch}")
    signal.sigwait(ends)
    ledger.stop()


def _has_a_past(settings: Settings) -> bool:
    replaced = os.path.join(settings.live_folder, "replaced", "ledger.db")
    return os.path.exists(settings.image_path) or os.path.exists(replaced)


def _bound(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A ledger that was killed leaves connections in TIME_WAIT behind; its successor must not wait for them.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(256)
    return listening


class _Listener:
    """Accepts connections and gives each its thread, which ends with the process."""

    def __init__(self, listening: socket.socket, answer: Callable[[Request, Send], None]) -> None:
        self._listening = listening
        self._answer = answer

    def accept_for_ever(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                # The client left before we came to it, or file handles are short; what still waits gets its turn.
                time.sleep(0.01)
                continue
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as incoming:
                if connection.family == socket.AF_INET:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._serve_one(connection, incoming):
                    pass
        except (ConnectionError, TimeoutError):
            # The client is gone, or idle for long. What it was owed is in the ledger, and it will ask again.
            return

    def _serve_one(self, connection: socket.socket, incoming: BinaryIO) -> bool:
        def send(response: Response, keep_alive: bool) -> None:
            connection.settimeout(SEND_SECONDS)
            connection.sendall(encode_response(response, keep_alive=keep_alive))

        connection.settimeout(IDLE_SECONDS)
        try:
            request = read_request(incoming)
        except RequestUnreadable as unreadable:
            send(problem(unreadable.status, str(unreadable)), keep_alive=False)
            return False
        if request is None:
            return False
        keep_alive = request.keep_alive
        try:
            self._answer(request, lambda response: send(response, keep_alive))
        except sqlite3.Error as error:
            send(problem(500, f"the ledger's database refused: {error}"), keep_alive=False)
            return False
        return keep_alive
