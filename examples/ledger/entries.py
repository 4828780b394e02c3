"""What a client may say, checked."""

import json
import string
from typing import NamedTuple

from examples.ledger.errors import EntryRefused

MOST_PER_PAGE = 1000
_ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.")
_LARGEST = 2**63 - 1


class NewEntry(NamedTuple):
    id: str
    amount: int


class Page(NamedTuple):
    after: int
    limit: int


def parse_entry(body: bytes) -> NewEntry:
    """Read the body of `POST /entries`.

    Raises:
        EntryRefused: It is not exactly an id and an amount. The error names the field.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EntryRefused("body", 'a JSON object such as {"id": "a-1", "amount": 250}') from error
    if not isinstance(fields, dict):
        raise EntryRefused("body", 'a JSON object such as {"id": "a-1", "amount": 250}')
    for name in fields:
        if name not in ("id", "amount"):
            raise EntryRefused(name, "no such field: only id and amount")
    entry_id, amount = fields.get("id"), fields.get("amount")
    if not isinstance(entry_id, str) or not is_entry_id(entry_id):
        raise EntryRefused("id", "1 to 64 letters, digits, '-', '_' or '.'")
    if type(amount) is not int or abs(amount) > _LARGEST:
        raise EntryRefused("amount", "a whole number of the currency's smallest unit, in 64 bits")
    return NewEntry(entry_id, amount)


def is_entry_id(text: str) -> bool:
    return 1 <= len(text) <= 64 and _ID_CHARACTERS.issuperset(text)


def parse_page(query: str) -> Page:
    """Read the query of `GET /entries`.

    Raises:
        EntryRefused: A parameter is unknown, repeated, or not a number in its range.
    """
    numbers = {"after": 0, "limit": 100}
    most = {"after": _LARGEST, "limit": MOST_PER_PAGE}
    seen: set[str] = set()
    for pair in filter(None, query.split("&")):
        name, _, text = pair.partition("=")
        if name not in numbers or name in seen:
            raise EntryRefused(name, "after and limit, each at most once")
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most[name]):
            raise EntryRefused(name, f"a whole number from 0 to {most[name]}")
        seen.add(name)
        numbers[name] = int(text)
    return Page(numbers["after"], numbers["limit"])
