"""How single values look to people: times in UTC, shares, money, states in the colour of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.text import Text

from spotctl.graphs import bar

type Shown = Callable[[Any], Text | str]

NOTHING = "-"

_COLOURS = {
    "green": ("ok", "online", "ready", "serving", "healthy", "promoted", "committed", "yes", "done", "live"),
    "yellow": (
        "failing-over",
        "syncing",
        "launching",
        "open",
        "offline",
        "paused",
        "cooldown",
        "pending",
        "warning",
        "unknown",
    ),
    "red": ("lost", "failed", "aborted", "critical", "error", "unprotected without standby"),
    "bright_black": ("terminated", "retired", "none", "no"),
}
_COLOUR_OF = {word: colour for colour, words in _COLOURS.items() for word in words}


def plain(value: Any) -> str:
    """As it is; nothing is a dash, and so that nothing else can look like it, an empty text is one too."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or NOTHING
    return str(value)


def state(value: Any) -> Text:
    """A word that says how something is."""
    word = plain(value)
    return Text(word, style=_COLOUR_OF.get(word, ""))


def strong(value: Any) -> Text:
    """What a row is called."""
    return Text(plain(value), style="bold")


def moment(value: Any) -> str:
    """A time in UTC, to the second."""
    return NOTHING if value is None else read_moment(value).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """How long, in the two largest units that matter."""
    rounded = round(seconds)
    if abs(seconds) < 10:
        return f"{seconds:.1f} s"
    for unit, size, below, below_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if rounded >= size:
            rest = rounded % size // below_size
            return f"{rounded // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{rounded} s"


def seconds(value: Any) -> str:
    """A number of seconds."""
    return NOTHING if value is None else duration(float(value))


def milliseconds(value: Any) -> str:
    """A number of milliseconds."""
    return NOTHING if value is None else duration(float(value) / 1000)


def ago(now: datetime) -> Shown:
    """A time as its distance from now."""

    def shown(value: Any) -> str:
        return NOTHING if value is None else f"{duration(max(0.0, (now - read_moment(value)).total_seconds()))} ago"

    return shown


def size(value: Any) -> str:
    """A number of bytes, in the largest unit that it fills."""
    if value is None:
        return NOTHING
    left = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} TiB"


def rate(value: Any) -> str:
    """Bytes per second."""
    return NOTHING if value is None else f"{size(value)}/s"


def progress(value: Any) -> str:
    """A share in percent, with a bar."""
    return NOTHING if value is None else f"{bar(float(value))} {float(value):3.0f} %"


def percent(value: Any) -> str:
    """A share in percent."""
    return NOTHING if value is None else f"{float(value):.2f} %"


def share(value: Any) -> str:
    """A share of one, as percent."""
    return NOTHING if value is None else f"{100 * float(value):.2f} %"


def money(value: Any) -> str:
    """A price or an amount in USD: four decimals, or more where they say something."""
    if value is None:
        return NOTHING
    exact = Decimal(str(value)).normalize()
    return f"{exact:f}" if -int(exact.as_tuple().exponent) > 4 else f"{exact:.4f}"


def amount(value: Any) -> str:
    """A sum of money, to a hundredth of a cent."""
    return NOTHING if value is None else f"{Decimal(str(value)):.4f}"


def usd(value: Any) -> str:
    """An amount with its currency."""
    return NOTHING if value is None else f"{amount(value)} USD"


def read_moment(value: Any) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(str(value)).astimezone(UTC)


def several(words: Iterable[str]) -> str:
    """A list in a sentence."""
    return ", ".join(words)
