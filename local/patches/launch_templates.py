"""Launch templates: what the emulator does not parse (market options, placement) is kept as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import ec2

from local.market.wire import read_request
from local.patches.rewriting import wrap

_PREFIX = "LaunchTemplateData"


def apply() -> None:
    """Patch the parser of launch template data."""
    wrap("launch template data", ec2, "_parse_lt_data", "(params, prefix='LaunchTemplateData')", _complete)


def _complete(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def parse(params: Mapping[str, list[str]], prefix: str = _PREFIX) -> dict[str, Any]:
        known = original(params, prefix)
        flat = {
            name.replace(prefix, _PREFIX, 1): values[0]
            for name, values in params.items()
            if name.startswith(f"{prefix}.")
        }
        complete: dict[str, Any] = read_request("CreateLaunchTemplate", flat).get(_PREFIX, {})
        return {**complete, **known}

    return parse
