"""Which days of a month a schedule's two day fields name, as a bit mask (bit 1 is the first).

Calendar only: no times, no zones, no text.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

ALL_DAYS = (1 << 32) - 2
ALL_WEEKDAYS = (1 << 7) - 1
_SATURDAY, _SUNDAY = 6, 0


def lowest(mask: int) -> int:
    """Return the number of the lowest bit that is set in *mask*, which isn't 0."""
    return (mask & -mask).bit_length() - 1


@dataclass(frozen=True, slots=True)
class DayRule:
    """The day-of-month and the day-of-week field of one expression.

    Weekdays count from Sunday = 0. With *both* a day must satisfy the two fields, else one of them is enough:
    cron asks for both if either field begins with ``*`` (cronie, src/cron.c: DOM_STAR, DOW_STAR).
    """

    days: int = ALL_DAYS
    before_last: tuple[int, ...] = ()  # L is 0, L-3 is 3
    nearest: tuple[int, ...] = ()  # 15W is 15
    last_workday: bool = False  # LW
    weekdays: int = ALL_WEEKDAYS
    nth: tuple[tuple[int, int], ...] = ()  # 5#3 is (5, 3)
    last_weekdays: int = 0  # 5L is bit 5
    both: bool = True

    def of(self, year: int, month: int) -> int:
        """Return the mask of the days of this month that satisfy the rule."""
        first_weekday, length = monthrange(year, month)
        first_weekday = (first_weekday + 1) % 7
        exist = (1 << (length + 1)) - 2
        by_day = self._by_day(first_weekday, length)
        by_weekday = self._by_weekday(first_weekday, length)
        return exist & (by_day & by_weekday if self.both else by_day | by_weekday)

    def _by_day(self, first_weekday: int, length: int) -> int:
        mask = self.days
        for count in self.before_last:
            if count < length:
                mask |= 1 << (length - count)
        if self.last_workday:
            mask |= 1 << _nearest_workday(length, first_weekday, length)
        for day in self.nearest:
            if day <= length:
                mask |= 1 << _nearest_workday(day, first_weekday, length)
        return mask

    def _by_weekday(self, first_weekday: int, length: int) -> int:
        if self.weekdays == ALL_WEEKDAYS:
            return ALL_DAYS
        week = (self.weekdays >> first_weekday) | (self.weekdays << (7 - first_weekday)) & ALL_WEEKDAYS
        mask = (week << 1) | (week << 8) | (week << 15) | (week << 22) | (week << 29)
        for weekday, number in self.nth:
            mask |= 1 << (1 + (weekday - first_weekday) % 7 + 7 * (number - 1))
        last = self.last_weekdays
        while last:
            weekday = lowest(last)
            last &= last - 1
            day = 1 + (weekday - first_weekday) % 7
            mask |= 1 << (day + 7 * ((length - day) // 7))
        return mask


@lru_cache(maxsize=256)  # rules are mostly alike: the jobs of one minute all ask for the same days
def first_day(rule: DayRule, months: int, ordinal: int) -> int | None:
    """Return the first day (a proleptic ordinal, as ``date.toordinal``) from *ordinal* on, or None: there is none.

    The calendar repeats every 400 years, so a search that long without a day is a proof.
    """
    start = date.fromordinal(ordinal)
    year, month, day = start.year, start.month, start.day
    last_year = min(year + 400, date.max.year - 1)
    while year <= last_year:
        if months >> month & 1:
            mask = rule.of(year, month) >> day
            if mask:
                return date(year, month, day + lowest(mask)).toordinal()
        day = 1
        rest = months >> (month + 1)
        if rest:
            month += 1 + lowest(rest)
        else:
            year, month = year + 1, lowest(months)
    return None


def _nearest_workday(day: int, first_weekday: int, length: int) -> int:
    """Return the Monday-to-Friday day nearest to *day* that lies in the same month."""
    weekday = (first_weekday + day - 1) % 7
    if weekday == _SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == _SUNDAY:
        return day + 1 if day < length else day - 2
    return day
