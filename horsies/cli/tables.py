"""What the commands show as tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

_ANY_WIDTH = 10_000


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str | None]], *, whole: Collection[str] = ()) -> None:
    """Print `rows` to standard output: as wide as the terminal, and as wide as they are where there is none.

    Args:
        whole: the headings of columns whose cells are not broken over lines, because they are there to be copied.
    """
    # Here and not above: a worker, which has no use for it, is smaller by 2 MB.
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = (Column(heading, overflow="fold", no_wrap=heading in whole) for heading in headings)
    table = Table(*columns, box=None)
    for row in rows:
        # As they are: in a plain string rich would take list[int] for a style.
        table.add_row(*(Text(cell or "") for cell in row))
    Console(width=None if sys.stdout.isatty() else _ANY_WIDTH).print(table)
