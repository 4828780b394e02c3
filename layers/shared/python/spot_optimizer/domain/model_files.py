"""Decodes the files of a model within bounds: how large, how deep, how many values, and of what kind.

XGBoost's own loader trusts what it reads: a file 500 levels deep ends the process, and a tree whose child is its own
parent is walked for ever. So every file is decoded here first, without recursion, and only then handed on.

UBJSON is what XGBoost writes of Draft 12 (https://ubjson.org): integers of 8 to 64 bits, 32 and 64 bit floats, strings,
objects, arrays, and arrays of one type.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from spot_optimizer.domain.models import LARGEST_FILE_BYTES, refusal_of_pickle
from spot_optimizer.errors import ModelRejected

DEEPEST: Final = 32
"""Levels. A booster has eight."""

MOST_VALUES: Final = 4_000_000

_ARCHIVES: Final = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_ZLIB_STARTS: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""As joblib writes a compressed pickle."""

_TYPES: Final = {ord("U"): ("B", 1), ord("i"): ("b", 1), ord("I"): ("h", 2), ord("l"): ("i", 4), ord("L"): ("q", 8)}
_FLOATS: Final = {ord("d"): ("f", 4), ord("D"): ("d", 8)}
_NUMBERS: Final = _TYPES | _FLOATS


def decode(name: str, content: bytes) -> Any:
    """Decode a JSON or UBJSON file, told apart by its name and held to it by its content.

    Args:
        name: Ends in `.json` or `.ubj`.
        content: Up to `LARGEST_FILE_BYTES`.

    Returns:
        Objects as dict, arrays as list; arrays of one numeric type may come as `array.array`.

    Raises:
        ModelRejected: It is something else, or beyond a bound.
    """
    if len(content) > LARGEST_FILE_BYTES:
        raise ModelRejected(f"'{name}' has {len(content)} bytes; expected at most {LARGEST_FILE_BYTES}")
    _refuse_disguises(name, content)
    if name.endswith(".json"):
        return _decode_json(name, content)
    if name.endswith(".ubj"):
        return _Ubjson(name, content).decode()
    raise ModelRejected(f"'{name}' is of an unknown kind; expected a name that ends in .json or .ubj")


def _refuse_disguises(name: str, content: bytes) -> None:
    for start, kind in _ARCHIVES.items():
        if content.startswith(start):
            raise ModelRejected(f"'{name}' is a {kind} archive; expected it as it is: nothing is unpacked here")
    if content.startswith(_ZLIB_STARTS) or (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"):
        raise ModelRejected(refusal_of_pickle(name))


def _decode_json(name: str, content: bytes) -> Any:
    _bound_json(name, content)

    def refuse(constant: str) -> NoReturn:
        raise ModelRejected(f"'{name}' holds {constant}; expected finite numbers")

    try:
        return json.loads(content, parse_constant=refuse)
    except ValueError as error:
        raise ModelRejected(f"'{name}' is not JSON: {error}; it may be truncated") from error


def _bound_json(name: str, content: bytes) -> None:
    """Count levels and values before a parser sees them; strings may hold brackets."""
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_VALUES:
        raise ModelRejected(f"'{name}' has more than {MOST_VALUES} values; train fewer trees")
    deepest = level = 0
    # What stands between quotes is every second part, once escaped characters are out of the way.
    for part in content.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]:
        for bracket in part.translate(None, _NO_BRACKETS):
            level += 1 if bracket in b"[{" else -1
            deepest = max(deepest, level)
    if deepest > DEEPEST:
        raise ModelRejected(f"'{name}' is {deepest} levels deep; expected at most {DEEPEST}")


_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


@dataclass(slots=True)
class _Open:
    """A container that is being filled."""

    into: dict[str, Any] | list[Any]
    left: int | None
    key: str | None = None


@dataclass(slots=True)
class _Ubjson:
    name: str
    content: bytes
    at: int = 0
    values: int = 0
    stack: list[_Open] = field(default_factory=list)

    def decode(self) -> Any:
        try:
            result = self._decode()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise ModelRejected(f"'{self.name}' is not UBJSON, or truncated, at byte {self.at}") from error
        if self.content[self.at :].strip(b"N"):
            raise ModelRejected(f"'{self.name}' goes on after its end, at byte {self.at}")
        return result

    def _decode(self) -> Any:
        value = self._value(self._marker())
        while self.stack:
            top = self.stack[-1]
            if self._ends(top):
                self.stack.pop()
                continue
            if isinstance(top.into, dict):
                top.key = self._string()
            before = len(self.stack)
            child = self._value(self._marker())
            if isinstance(top.into, dict):
                top.into[str(top.key)] = child
            else:
                top.into.append(child)
            if len(self.stack) > DEEPEST and len(self.stack) > before:
                raise ModelRejected(f"'{self.name}' is over {DEEPEST} levels deep; expected at most {DEEPEST}")
        return value

    def _ends(self, top: _Open) -> bool:
        if top.left is not None:
            top.left -= 1
            return top.left < 0
        closing = b"}" if isinstance(top.into, dict) else b"]"
        if self.content[self.at : self.at + 1] == closing:
            self.at += 1
            return True
        return False

    def _marker(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _value(self, marker: int) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            raise ModelRejected(f"'{self.name}' has more than {MOST_VALUES} values; train fewer trees")
        if marker in _NUMBERS:
            code, size = _NUMBERS[marker]
            [value] = struct.unpack_from(f">{code}", self.content, self.at)
            self.at += size
            return value
        if marker == ord("S"):
            return self._string()
        if marker in b"TFZ":
            return {ord("T"): True, ord("F"): False, ord("Z"): None}[marker]
        if marker in b"[{":
            return self._container({} if marker == ord("{") else [])
        raise ModelRejected(f"'{self.name}' has an unknown type {marker:#04x} at byte {self.at - 1}; is it UBJSON?")

    def _container(self, into: dict[str, Any] | list[Any]) -> Any:
        typed = count = None
        if self.content[self.at : self.at + 1] == b"$":
            typed = self.content[self.at + 1]
            self.at += 2
        if self.content[self.at : self.at + 1] == b"#":
            self.at += 1
            count = self._count()
        if typed is not None:
            return self._numbers(typed, count, into)
        self.stack.append(_Open(into, count))
        return into

    def _numbers(self, typed: int, count: int | None, into: dict[str, Any] | list[Any]) -> array[Any]:
        if count is None or typed not in _NUMBERS or isinstance(into, dict):
            raise ModelRejected(f"'{self.name}' has a typed container at byte {self.at} that is no array of numbers")
        code, size = _NUMBERS[typed]
        end = self.at + count * size
        if end > len(self.content):
            raise ModelRejected(f"'{self.name}' is truncated: an array of {count} goes beyond its end")
        self.values += count
        values = array(code, self.content[self.at : end])
        values.byteswap()  # UBJSON is big-endian, every processor that runs this is not
        self.at = end
        return values

    def _string(self) -> str:
        length = self._count()
        text = self.content[self.at : self.at + length]
        if len(text) < length:
            raise ModelRejected(f"'{self.name}' is truncated: a string of {length} goes beyond its end")
        self.at += length
        return text.decode()

    def _count(self) -> int:
        marker = self._marker()
        if marker not in _TYPES:
            raise ModelRejected(f"'{self.name}' has a length of unknown type {marker:#04x} at byte {self.at - 1}")
        value = self._value(marker)
        if not 0 <= value <= len(self.content):
            raise ModelRejected(f"'{self.name}' has a length of {value} at byte {self.at}, more than the file holds")
        return int(value)
