"""Where answers go: tables for people on a terminal, one JSON document for machines, failures on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from spotctl.failures import Document, Failure, Refused
from spotctl.words import Shown, plain


@dataclass(frozen=True, slots=True)
class Column:
    """What a table or a sheet shows of a document.

    Attributes:
        title: Its heading.
        field: Where it is in the document; a dot goes one level down.
        shown: How it looks.
        right: Whether it lines up on the right, as numbers do.
        whole: Whether it is never cut, because people copy it.
    """

    title: str
    field: str
    shown: Shown = plain
    right: bool = False
    whole: bool = False

    def of(self, document: Document) -> Text | str:
        """Its look in one document; what the API did not send is a dash."""
        value: Any = document
        for name in self.field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return self.shown(value)


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind of answer looks.

    Attributes:
        schema: The answer's name in the API's description; a test holds the columns against it.
        columns: In order.
        nothing: What to say of an empty list.
    """

    schema: str
    columns: tuple[Column, ...]
    nothing: str = "There is none."


class Screen:
    """One command's output.

    Args:
        as_json: Whether a machine reads it.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False, soft_wrap=False)
        self.err = Console(stderr=True, highlight=False)

    def show_list(self, shape: Shape, documents: Iterable[Document]) -> None:
        """Print a list: a table, or a JSON array."""
        rows = list(documents)
        if self.as_json:
            self.print_json(rows)
        elif rows:
            self.out.print(table_of(shape.columns, rows))
        else:
            self.err.print(shape.nothing)

    def show(self, shape: Shape, document: Document, *, below: Iterable[RenderableType] = ()) -> None:
        """Print one thing: a sheet, or a JSON object.

        Args:
            shape: How it looks.
            document: What it is.
            below: More, for people only.
        """
        if self.as_json:
            self.print_json(document)
        else:
            self.out.print(Group(sheet_of(shape.columns, document), *below))

    def print_json(self, value: Any) -> None:
        """Print a document as it came."""
        # Not through rich: neither wrapped nor coloured, whatever reads it.
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def print_json_line(self, value: Any) -> None:
        """Print one document of many, at once."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def say(self, text: str | Text) -> None:
        """Tell people what happened; a machine has the exit status and the document."""
        if not self.as_json:
            self.err.print(text)

    def fail(self, failure: Failure) -> None:
        """Say why it did not work, and what to do next."""
        if self.as_json:
            print(json.dumps(failure.as_document(), indent=2, ensure_ascii=False), file=sys.stderr)
            return
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="bright_black")
        lines.add_column(overflow="fold")
        title = Text(f"{failure.title}", style="bold red")
        lines.add_row("what", Text(failure.detail))
        if isinstance(failure, Refused):
            title.append(f"  (HTTP {failure.status} {failure.name})".rstrip(), style="not bold")
            for name in ("field", "expected", "current_epoch"):
                if failure.problem.get(name) is not None:
                    lines.add_row(name.replace("_", " "), plain(failure.problem[name]))
        if failure.advice:
            lines.add_row("next", Text(failure.advice))
        if isinstance(failure, Refused) and failure.problem.get("request_id"):
            lines.add_row("request", Text(str(failure.problem["request_id"])))
        self.err.print(title)
        self.err.print(Padding(lines, (0, 0, 0, 2)))

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[float, str], None]]:
        """Show that something runs: a bar on a terminal; elsewhere one line each time that the step changes.

        Yields:
            Tell it percent and step.
        """
        steps: list[str] = []
        if self.as_json or not self.err.is_terminal:

            def tell(percent: float, step: str) -> None:
                if not steps or steps[-1] != step:
                    steps.append(step)
                    self.say(f"{title}: {step} ({percent:.0f} %)")

            yield tell
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}", style="bright_black"),
            console=self.err,
            transient=True,
        ) as bars:
            task = bars.add_task(title, total=100, step="")
            yield lambda percent, step: bars.update(task, completed=percent, step=step)


def table_of(columns: Sequence[Column], documents: Iterable[Document]) -> Table:
    """A table: one row per document."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="ignore" if column.whole else "fold",
        )
    for document in documents:
        table.add_row(*(column.of(document) for column in columns))
    return table


def sheet_of(columns: Iterable[Column], document: Document) -> Table:
    """A sheet: one line per column."""
    sheet = Table.grid(padding=(0, 2))
    sheet.add_column(style="bright_black", no_wrap=True)
    sheet.add_column(overflow="fold")
    for column in columns:
        sheet.add_row(column.title, column.of(document))
    return sheet
