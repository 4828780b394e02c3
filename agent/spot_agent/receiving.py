"""The standby's end of the replication link: receives generations, passes on the primary's requests for the lease."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spot_agent import switches
from spot_agent.journal import Journal
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import LeaseAsk, LeaseReply, StandbyListener
from spot_agent.sync.manifest import Manifest
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import Progress
from spot_optimizer.domain.orders import Peer
from spot_optimizer.domain.protocol import AnswerLease, Event, GenerationCommitted, LeaseAsked, LinkChanged

log = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 120.0
_NO_STANDBY: Final = "this is no standby now"


class Receiver:
    """Listens while it is told to, and keeps the received image until it has become the live state."""

    def __init__(
        self,
        folder: Path,
        watched: WatchedPaths,
        *,
        address: str,
        port: int,
        identity: Identity,
        emit: Callable[[Event], None],
    ) -> None:
        """Take up what an earlier agent received.

        Args:
            folder: The store's own folder.
            watched: Where the image lies.
            address: To listen on.
            port: To listen on.
            identity: This instance's certificate and key.
            emit: Takes the events; called on the link's threads.

        Raises:
            StorageFailed: The store could not be recovered.
        """
        self._folder = folder
        self._watched = watched
        self._address = address
        self._port = port
        self._identity = identity
        self._emit = emit
        self._lock = threading.Lock()
        self._store: GenerationStore | None = GenerationStore.open(folder, watched) if folder.exists() else None
        self._listener: StandbyListener | None = None
        self._peer: Peer | None = None
        self._numbers = itertools.count(1)
        self._asks: dict[int, queue.SimpleQueue[AnswerLease]] = {}

    @property
    def image(self) -> Generation | None:
        """The received image that is not live yet; None if there is none."""
        store = self._store
        return store.current() if store is not None else None

    @property
    def progress(self) -> Progress | None:
        """Of the generation that is being received."""
        listener = self._listener
        return listener.progress if listener is not None else None

    def listen(self, peer: Peer) -> None:
        """Accept this primary, and no other."""
        with self._lock:
            former, self._peer = self._peer, peer
            if self._listener is not None and former is not None and former.certificate != peer.certificate:
                self._listener.hang_up()
            if self._listener is None:
                self._listener = StandbyListener(
                    address=self._address,
                    port=self._port,
                    identity=self._identity,
                    peer_certificate=self._peer_certificate,
                    store=self._open_store(),
                    on_lease_ask=self._ask,
                    on_committed=self._note_committed,
                    on_link=self._note_link,
                    on_confirmed=self._note_confirmed,
                )
                self._listener.start()
                log.info("listening for the primary", extra={"address": self._address, "port": self._port})

    def stop(self) -> None:
        """Accept nobody; when this returns, nothing more is received. What was received stays."""
        self._peer = None
        for number in list(self._asks):  # who waits for an answer would hold up the listener's end
            self.answer(AnswerLease(number, granted=False, reason=_NO_STANDBY))
        with self._lock:
            if self._listener is not None:
                self._listener.stop()
                self._listener = None
                if self._store is not None:  # a thread may still be waiting for the disk
                    self._store.give_up_incoming()

    def answer(self, answer: AnswerLease) -> None:
        """Pass the protocol's answer on to the primary that asked; a second answer is passed over."""
        waiting = self._asks.pop(answer.request, None)
        if waiting is not None:
            waiting.put(answer)

    def refuse(self, asked: LeaseAsked) -> None:
        """Answer for a protocol that had nothing to say, because this is no standby now."""
        self.answer(AnswerLease(asked.request, granted=False, reason=_NO_STANDBY))

    def prepare_image(self) -> None:
        """Have the received image lie in the watched paths, whole; nothing more is received from here on.

        Raises:
            ImageDamaged: It is not what was promised.
            StorageFailed: The disk did not take it.
            TimeoutError: It took too long.
        """
        self.stop()
        if self._store is not None:
            self._store.settle(timeout_seconds=_SETTLE_SECONDS)

    def store_for_restoring(self) -> GenerationStore:
        """The store, for a snapshot that goes where generations went; nothing is received from here on."""
        self.stop()
        with self._lock:
            return self._open_store()

    def hold(self, image: Generation, manifest: Manifest) -> None:
        """Have the store hold what is live in the watched paths, as if it had been received.

        Raises:
            StorageFailed: The disk did not take it.
        """
        with self._lock:
            GenerationStore.found(self._folder, self._watched, image, manifest)
            self._store = GenerationStore.open(self._folder, self._watched)

    def release(self) -> Manifest | None:
        """The image has become the live state: forget that it was received; what it contains, if there was one."""
        with self._lock:
            store, self._store = self._store, None
        if store is None or store.current() is None:
            return None
        return store.release()

    def _open_store(self) -> GenerationStore:
        if self._store is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = GenerationStore.open(self._folder, self._watched)
        return self._store

    def _peer_certificate(self) -> str | None:
        peer = self._peer
        return peer.certificate if peer is not None else None

    def _ask(self, ask: LeaseAsk) -> LeaseReply:
        number = next(self._numbers)
        waiting: queue.SimpleQueue[AnswerLease] = queue.SimpleQueue()
        self._asks[number] = waiting
        self._emit(LeaseAsked(request=number, epoch=ask.epoch, asked=ask.request_id, lag_seconds=ask.lag_seconds))
        if self._peer is None:
            self.answer(AnswerLease(number, granted=False, reason=_NO_STANDBY))
        try:
            answer = waiting.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            self._asks.pop(number, None)
            answer = AnswerLease(number, granted=False, reason="this standby is too busy to answer")
        image = self.image
        generation = image.number if image is not None else 0
        return LeaseReply(ask.request_id, granted=answer.granted, reason=answer.reason, generation=generation)

    def _note_committed(self, generation: Generation) -> None:
        self._emit(as_event(generation))

    def _note_confirmed(self, generation: Generation, taken_at: float) -> None:
        """The same generation covers more time. Not made durable: after a restart it claims what it did when taken."""
        self._emit(as_event(replace(generation, taken_at=taken_at)))

    def _note_link(self, up: bool) -> None:
        peer = self._peer
        if peer is not None:
            self._emit(LinkChanged(peer.replica_id, up=up))


class LiveImage:
    """How the received image becomes the live state: durably, and once per epoch."""

    def __init__(
        self, receiver: Receiver, journal: Journal, *, instance_id: str, adopt: Callable[[Manifest], None]
    ) -> None:
        """Keep what is given.

        Args:
            receiver: Has the image.
            journal: Remembers for which epoch it was made live, and the switches up to then.
            instance_id: This instance.
            adopt: Takes what it contains, so that it need not be read again.
        """
        self._receiver = receiver
        self._journal = journal
        self._instance_id = instance_id
        self._adopt = adopt

    def is_live(self, epoch: int) -> bool:
        """See `serving.ReceivedImage`."""
        return self._journal.memory.restored_epoch == epoch

    def prepare(self) -> None:
        """See `serving.ReceivedImage`."""
        self._receiver.prepare_image()

    def become_live(self, epoch: int) -> None:
        """See `serving.ReceivedImage`."""
        received = self._receiver.image
        before = () if received is None else switches.carried(received.extra)
        history = switches.add(before, epoch=epoch, instance_id=self._instance_id, at=datetime.now(UTC))
        self._journal.remember(restored_epoch=epoch, switches=history)
        self.let_go()

    def let_go(self) -> None:
        """Forget that the image was received; also what an earlier process did not come to."""
        manifest = self._receiver.release()
        if manifest is not None:
            self._adopt(manifest)


def as_event(generation: Generation) -> GenerationCommitted:
    """What the protocol is told of a generation; what travelled along is a peer's word, so only a number is one."""
    readiness = generation.extra.get("readiness")
    return GenerationCommitted(
        generation=generation.number,
        covered_until=datetime.fromtimestamp(generation.taken_at, UTC).isoformat(),
        final_for=generation.final_for,
        readiness=readiness if type(readiness) is int else None,
        epoch=generation.epoch,
    )
