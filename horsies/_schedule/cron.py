"""Cron expressions: which ones are accepted, and how cronsim is told what they mean.

The grammar is that of crontab(5), with `L` and `#` for days as cronsim has them. Each field is a list of terms,
separated by commas. A term is `*`, a value or a range, and a step may follow it: `*/5`, `10-30/5`, `10/5` (from 10
to the end).
"""

from __future__ import annotations

from dataclasses import dataclass

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SUNDAY_LAST = 7
WEEKS = 5
"""A month has no sixth Monday."""
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class CronReading:
    """`text` is the expression as cronsim reads it; it is of use only if there are no `problems`."""

    text: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()

    @property
    def values(self) -> str:
        named = f" or {self.names[0]}..{self.names[-1]}" if self.names else ""
        return f"{self.first}..{self.last}{named}"


_DAY = _Field("day-of-month", 1, 31)
_WEEKDAY = _Field("day-of-week", 0, SUNDAY_LAST, WEEKDAYS)
_FIELDS = (_Field("minute", 0, 59), _Field("hour", 0, 23), _DAY, _Field("month", 1, 12, MONTHS), _WEEKDAY)


class _WrongTerm(Exception):
    """The rule that a term breaks."""


def read_cron(fields: list[str]) -> CronReading:
    """Read the five fields of a cron expression."""
    texts: list[str] = []
    problems: list[str] = []
    for field, given in zip(_FIELDS, fields, strict=True):
        try:
            texts.append(",".join(_term(field, term) for term in given.lower().split(",")))
        except _WrongTerm as wrong:
            problems.append(f"Bad {field.name}: {wrong}")
    return CronReading(" ".join(texts), tuple(problems))


def _term(field: _Field, term: str) -> str:
    """A term in numbers, and in none of the forms that cronsim reads in another way than crontab(5)."""
    base, slash, stepped = term.partition("/")
    step = _step(stepped) if slash else ""
    if (field is _DAY and base.startswith("l")) or (field is _WEEKDAY and ("#" in base or base.endswith("l"))):
        if slash:
            raise _WrongTerm(f"{_shown(base)} takes no step")
        return _chosen_day(field, base)
    if base == "*":
        return base + step
    begin_text, dash, end_text = base.partition("-")
    begin = _value(field, begin_text)
    if not dash:
        return f"{begin}{step}"
    end = _value(field, end_text)
    if field is _WEEKDAY and end == 0 < begin:
        end = SUNDAY_LAST
    if end < begin:
        raise _WrongTerm(f"the range {_shown(base)} ends before it begins; write two ranges, separated by a comma")
    # To cronsim a range of one value with a step goes on to the end of the field, as a value with a step does.
    return str(begin) if begin == end else f"{begin}-{end}{step}"


def _chosen_day(field: _Field, term: str) -> str:
    """The last day or workday of a month, its last Friday, its second Monday."""
    if field is _DAY:
        if term not in ("l", "lw"):
            raise _WrongTerm(f"{_shown(term)} is neither L (the last day) nor LW (the last workday)")
        return term
    weekday, hash_sign, nth = term.partition("#")
    if hash_sign:
        if not _is_number(nth) or not 1 <= int(nth) <= WEEKS:
            raise _WrongTerm(f"{_shown(term)} does not say which one of the month after #: 1..{WEEKS}")
        return f"{_value(field, weekday)}#{int(nth)}"
    if term == "l":
        raise _WrongTerm(f"{_shown(term)} is not a weekday before L, such as 5L for the last Friday")
    return f"{_value(field, term[:-1])}L"


def _value(field: _Field, text: str) -> int:
    if text in field.names:
        return field.first + field.names.index(text)
    if _is_number(text) and field.first <= int(text) <= field.last:
        return int(text)
    if not text:
        raise _WrongTerm(f"a value is missing; values are {field.values}")
    raise _WrongTerm(f"{_shown(text)} is not one of {field.values}")


def _step(text: str) -> str:
    if not _is_number(text) or int(text) < 1:
        raise _WrongTerm(f"the step {_shown(text)} is not a whole number from 1")
    return f"/{int(text)}"


def _is_number(text: str) -> bool:
    # int() takes digits of every script, and refuses very long ones.
    return text.isascii() and text.isdigit() and len(text) <= 9


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
