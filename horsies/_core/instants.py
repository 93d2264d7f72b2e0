"""Which instants and spans of time a caller may give, and what becomes of them.

An instant is stored as microseconds since 1970 in UTC, so that is what is checked, whatever zone it was written in. In
UTC it is read again: at the ends of the calendar there is no other zone that could show it. A span is at most 1,000
years, so that now plus a span is in the calendar as well.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""The first and the last instant that can be given."""
LONGEST = timedelta(days=365_000)
LONGEST_SECONDS = LONGEST.total_seconds()

_NOTHING = timedelta(0)


def instant(value: object) -> datetime:
    """`value` in UTC, as a plain datetime.

    The methods of a subclass are not called: those of pandas, for one, answer with types of their own.

    Raises:
        ValueError: what is wrong with it, to be put behind its name.
    """
    since = _since_1970(value)
    if not EARLIEST - EPOCH <= since <= LATEST - EPOCH:
        raise ValueError("is beyond the calendar once it is in UTC: years are 1..9999")
    return EPOCH + since


def nearest_instant(value: object) -> datetime:
    """As `instant`, but what is before the first or after the last becomes that one: for the bounds of a range."""
    return EPOCH + min(max(_since_1970(value), EARLIEST - EPOCH), LATEST - EPOCH)


def is_instant(value: object) -> bool:
    """Whether `instant` accepts `value`."""
    try:
        instant(value)
    except ValueError:
        return False
    return True


def span(value: object) -> timedelta:
    """Seconds or a timedelta as a plain timedelta, from 0 to 1,000 years.

    Raises:
        ValueError: what is wrong with it, to be put behind its name.
    """
    found = _as_timedelta(value)
    if found is None:
        raise ValueError("is not a number of seconds from 0, nor a timedelta")
    if found < _NOTHING:
        raise ValueError("is not a number of seconds from 0: it is negative")
    if found > LONGEST:
        raise ValueError("is too long: 1,000 years are the most")
    return found


def positive_span(value: object) -> timedelta:
    """As `span`, and at least a microsecond."""
    found = _as_timedelta(value)
    if found is None or found <= _NOTHING:
        raise ValueError("is not a positive number of seconds, nor a positive timedelta")
    return span(found)


def wait(value: object) -> float | None:
    """Seconds to wait for something, as a caller says it: None, and what is longer than 1,000 years, is without end.

    Raises:
        ValueError: what is wrong with it, to be put behind its name.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > LONGEST_SECONDS:
        return None
    found = _as_timedelta(value)
    if found is None:
        raise ValueError("is not a number of seconds from 0, nor a timedelta, nor None")
    if found < _NOTHING:
        raise ValueError("is not a number of seconds from 0: it is negative")
    return None if found > LONGEST else found.total_seconds()


def micros_of(at: datetime) -> int:
    """Microseconds since 1970 of an aware instant."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def instant_of(micros: int) -> datetime:
    """The instant, in UTC, that `micros_of` turned into `micros`. Raises: OverflowError, the calendar has none such."""
    seconds, rest = divmod(micros, 1_000_000)
    return _second(seconds).replace(microsecond=rest)


@lru_cache(maxsize=64)
def _second(seconds: int) -> datetime:
    # Instants that are read together are mostly of the same few seconds. A timedelta takes longer than all else here.
    return EPOCH + timedelta(seconds=seconds)


def is_seconds(value: object, *, most: float = LONGEST_SECONDS, may_be_zero: bool = False) -> bool:
    """Whether `value` is a number of seconds above 0 (or 0, where that may be), and `most` at most."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return 0 < value <= most or (may_be_zero and value == 0)


def _since_1970(value: object) -> timedelta:
    try:
        since = datetime.__sub__(value, EPOCH) if isinstance(value, datetime) else None
    except TypeError:  # it is naive
        since = None
    except Exception:  # a time zone is code of the caller's
        raise ValueError("has a time zone that fails to give its offset") from None
    if not isinstance(since, timedelta):
        raise ValueError("is not a datetime with a time zone")
    return since


def _as_timedelta(value: object) -> timedelta | None:
    """As a plain timedelta; None: `value` is neither a timedelta nor a number of seconds that one can hold."""
    if isinstance(value, timedelta):
        return timedelta.__add__(value, _NOTHING)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):  # ValueError: it is not a number
        return None
