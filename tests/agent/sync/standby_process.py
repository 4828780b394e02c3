"""A standby in a process of its own, so that it can be killed. Prints its port."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import LeaseAsk, LeaseReply, StandbyListener
from spot_agent.sync.paths import WatchedPaths


def main(folder: Path) -> None:
    def grant(ask: LeaseAsk) -> LeaseReply:
        return LeaseReply(ask.request_id, granted=True, reason="", generation=0)

    listener = StandbyListener(
        address="127.0.0.1",
        port=0,
        identity=Identity.load_or_create(folder / "standby", name="standby"),
        peer_certificate=(folder / "peer.pem").read_text,
        store=GenerationStore.open(folder / "store", WatchedPaths.of([folder / "there"])),
        on_lease_ask=grant,
        on_committed=lambda _: None,
        on_link=lambda _: None,
    )
    print(listener.start(), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
