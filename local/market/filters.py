"""Filters and pages of EC2's Describe calls."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from local.market.errors import Ec2Refusal

type Reader[T] = Callable[[T], str | Iterable[str] | None]


def matching[T](
    items: Iterable[T],
    filters: Sequence[Mapping[str, Any]],
    readers: Mapping[str, Reader[T]],
    tags_of: Callable[[T], Mapping[str, str]],
) -> list[T]:
    """Keep the items that pass every filter; `*` and `?` in values are wildcards.

    Raises:
        Ec2Refusal: A filter that this call does not have. AWS refuses it as well.
    """
    kept = list(items)
    for each in filters:
        name, wanted = str(each["Name"]), [str(value) for value in each.get("Values", [])]
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            kept = [item for item in kept if _any_matches([tags_of(item)[key]] if key in tags_of(item) else [], wanted)]
        elif name == "tag-key":
            kept = [item for item in kept if _any_matches(tags_of(item), wanted)]
        elif name in readers:
            kept = [item for item in kept if _any_matches(_values(readers[name](item)), wanted)]
        else:
            raise Ec2Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return kept


def _values(value: str | Iterable[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _any_matches(values: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for value in values for pattern in patterns)


def page[T](
    items: Sequence[T], request: Mapping[str, Any], *, largest: int = 1000
) -> tuple[Sequence[T], dict[str, str]]:
    """Cut one page out.

    Returns:
        The page's items, and `{"NextToken": …}` when there are more.

    Raises:
        Ec2Refusal: The token is not one of ours.
    """
    size = min(int(request.get("MaxResults") or largest), largest)
    start = _offset(str(request.get("NextToken") or ""))
    rest = start + size
    more = {"NextToken": base64.b64encode(f"from {rest}".encode()).decode()} if rest < len(items) else {}
    return items[start:rest], more


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        word, number = base64.b64decode(token, validate=True).decode().split()
        if word == "from":
            return int(number)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise Ec2Refusal("InvalidNextToken", "The token is invalid.")
