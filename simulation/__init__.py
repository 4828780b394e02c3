"""The failover protocol under every fault, in virtual time: a deterministic simulator of the product's own code.

`python -m simulation --seeds 300` runs seeds, `--seed n` replays one with its history. See docs/protocol.md.
"""
