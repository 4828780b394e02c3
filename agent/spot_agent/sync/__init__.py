"""State transfer: carries the watched paths of a primary to its standby, one journaled generation after the other.

The parts, from the disk to the wire:

- `paths` knows where the watched paths lie here, and opens files below them without ever leaving them.
- `manifest` says what a tree contains: names, metadata and block hashes, summed up in one root hash.
- `scan` reads a tree into a manifest; it re-reads only what changed.
- `source` (primary) turns the difference between two manifests into a stream of frames.
- `frames` and `channel` carry frames over TLS that is pinned on both sides.
- `generations` (standby) receives it into a journal and commits it in one step; `apply` then changes the image.
- `room` bounds the memory that a peer's lists may take.
- `link` joins it all: `PrimaryLink` on one side, `StandbyListener` on the other.

What the rest of the agent needs:

>>> identity = Identity.load_or_create(state_dir, name=instance_id)          # its certificate goes to the control plane
>>> source = GenerationSource(WatchedPaths.of(paths))                        # primary
>>> link = PrimaryLink.connect(peer, identity=identity, ...)
>>> generation = source.take(number, epoch=epoch, held=link.held)
>>> link.ship(generation, timeout_seconds=30)

>>> store = GenerationStore.open(state_dir / "generations", WatchedPaths.of(paths))   # standby
>>> StandbyListener(address=..., port=..., identity=identity, store=store, ...).start()
"""
