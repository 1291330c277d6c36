"""A table that fits the console at any width."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

GAP = 3  # between two columns
NARROW = 12  # least width of the names, and most that a word of a heading needs


class Fitted(Table):
    """A table with names on the left and numbers on the right, which are never cut.

    Where the console is too narrow, headings and names take several lines; columns that still do
    not fit are moved below, to a table of their own.

    Args:
        first: Heading of the names.
        *others: Headings of the numbers.
        title: Title of the table.

    Example:
        >>> from rich.console import Console
        >>> table = Fitted("name", "first number", "second number")
        >>> table.add_row("PGD", "1,234.5", "6,789.0")
        >>> Console(width=29).print(table)
        <BLANKLINE>
                  first    second
          name   number    number
         ──────────────────────────
          PGD   1,234.5   6,789.0
        <BLANKLINE>
    """

    def __init__(self, first: str = "", *others: str, title: Any = None) -> None:
        super().__init__(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        self.add_column(first, overflow="fold")
        for heading in others:
            self.add_column(heading, justify="right", overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        room = options.max_width - 1
        names, *numbers = self.columns
        least = [GAP + max(_width(c.cells), min(_longest_word(c.header), NARROW)) for c in numbers]
        whole = [max(GAP + _width([c.header]), w) for c, w in zip(numbers, least, strict=True)]
        longest = max(_width([names.header, *names.cells]), 1)
        words = max(map(_longest_word, [names.header, *names.cells]))
        first = GAP + min(longest, max(NARROW, words, room - GAP - sum(least)))
        if first + sum(least) > room:  # several tables, with names in each
            words = min(words, room - GAP - max(least))
            first = GAP + min(longest, max(NARROW, words, room // 3))
        blocks: list[list[int]] = [[]]
        for j, width in enumerate(least):
            if blocks[-1] and first + width + sum(least[k] for k in blocks[-1]) > room:
                blocks.append([])
            blocks[-1].append(j)
        for block in blocks:
            left = room - first - sum(least[j] for j in block)
            widths = [first]
            for j in block:  # a heading takes one line where there is room
                more = whole[j] - least[j] if whole[j] - least[j] <= left else 0
                widths.append(least[j] + more)
                left -= more
            yield from self._part([0, *(j + 1 for j in block)], widths).__rich_console__(
                console, options
            )

    def _part(self, places: list[int], widths: list[int]) -> Table:
        """Return a table of some of the columns with the given widths; the first has the title."""
        title = self.title if places[1:2] in ([1], []) else None
        part = Table(title=title, title_justify="left", title_style="bold", box=self.box)
        columns = [self.columns[place] for place in places]
        for column, width in zip(columns, widths, strict=True):
            part.add_column(
                column.header, justify=column.justify, overflow="fold", width=width - GAP
            )
        for row, cells in zip(
            self.rows, zip(*(c.cells for c in columns), strict=True), strict=True
        ):
            part.add_row(*cells, style=row.style, end_section=row.end_section)
        return part


def _plain(cell: Any) -> str:
    """Return the text of a cell or heading without its styles."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(cell).plain


def _width(cells: Iterable[Any]) -> int:
    """Return the width of the longest line."""
    return max((cell_len(line) for cell in cells for line in _plain(cell).split("\n")), default=0)


def _longest_word(cell: Any) -> int:
    return max(map(cell_len, _plain(cell).split()), default=0)
