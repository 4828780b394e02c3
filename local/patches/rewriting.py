"""Change the pinned emulator where it differs from AWS, or fail naming the patch that no longer fits."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class MinistackChanged(Exception):
    """A patch does not find what it replaces: the emulator was upgraded, and the patch must be reviewed."""


def replace_text(patch: str, text: str, old: str, new: str) -> str:
    """Replace the one occurrence of `old`.

    Raises:
        MinistackChanged: It occurs not once.
    """
    if text.count(old) != 1:
        raise MinistackChanged(f"patch {patch!r}: found {text.count(old)} times instead of once: {old!r}")
    return text.replace(old, new)


def rewrite(
    patch: str,
    owner: ModuleType | type,
    name: str,
    replacements: Mapping[str, str],
    *,
    given: Mapping[str, object] | None = None,
) -> None:
    """Replace pieces of a function's source and compile it again in its own module.

    Args:
        patch: What the patch is for; named when it does not fit.
        owner: The module or class that holds the function.
        name: The function.
        replacements: Old text, which must occur exactly once -> new text.
        given: Names that the new text uses, added to the function's module.

    Raises:
        MinistackChanged: The function is not there, or a piece of text is not.
    """
    function = getattr(owner, name, None)
    if function is None:
        raise MinistackChanged(f"patch {patch!r}: {owner.__name__} has no {name}")
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements.items():
        source = replace_text(patch, source, old, new)
    module = owner if isinstance(owner, ModuleType) else sys.modules[owner.__module__]
    vars(module).update(given or {})
    compiled: dict[str, Any] = {}
    exec(compile(source, f"<{module.__name__}.{name}, patched: {patch}>", "exec"), vars(module), compiled)  # noqa: S102 - the emulator's own source
    setattr(owner, name, compiled[name])


def wrap(patch: str, owner: ModuleType, name: str, signature: str, wrapper: Callable[[Any], Any]) -> None:
    """Put a wrapper around a function whose signature is as expected.

    Args:
        patch: What the patch is for.
        owner: The module that holds the function.
        name: The function.
        signature: Its signature, as `inspect` writes it.
        wrapper: Gets the original, returns what replaces it.

    Raises:
        MinistackChanged: The function is not there, or looks different.
    """
    function = getattr(owner, name, None)
    found = str(inspect.signature(function)) if callable(function) else "nothing"
    if found != signature:
        raise MinistackChanged(f"patch {patch!r}: {owner.__name__}.{name} is {found}, expected {signature}")
    setattr(owner, name, wrapper(function))
