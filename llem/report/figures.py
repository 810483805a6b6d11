"""Figures as people read them: three to four digits, a unit, and a dash for what is not known."""

import math

MISSING = "-"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))

_MOST_PLACES = 12
"""Digits after the point that no sensor tells apart."""


def printable(text: str) -> str:
    r"""
    *text* in one line that a terminal shows as it is: what it might obey is spelled out.

    A name in a result may come from anywhere, and hold escape sequences.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def unicode_text(text: str) -> str:
    r"""
    *text*, with bytes that are not UTF-8 in the name of a file spelled out.

    >>> print(unicode_text("a\udcff"))
    a\udcff
    """
    return text.encode("utf-8", "backslashreplace").decode()


def with_unit(value: float | None, unit: str) -> str:
    """
    *value* with an SI prefix and *unit*.

    >>> with_unit(0.000356, "J")
    '356 µJ'
    """
    if value is None:
        return MISSING
    size, prefix = _prefix(value)
    return f"{value / size:.4g} {prefix}{unit}".rstrip()


def plus_minus(value: float | None, bound: float | None, unit: str) -> str:
    """
    *value* and the *bound* on its error, in one unit and to the same digit.

    >>> plus_minus(5400.0, 70.04, "J")
    '5.400 kJ ± 0.070 kJ'
    """
    if value is None or bound is None:
        return with_unit(value, unit)
    return f"{to_bound(value, bound, unit)} ± {_scaled(bound, value, bound, unit)}"


def to_bound(value: float | None, bound: float | None, unit: str) -> str:
    """
    *value* as `plus_minus` has it, without its *bound*.

    >>> to_bound(602.7, 24.71, "J")
    '603 J'
    """
    if value is None or bound is None:
        return with_unit(value, unit)
    return _scaled(value, value, bound, unit)


def number_to_bound(value: float | None, bound: float | None) -> str:
    """
    *value* without a prefix, to the second digit of its *bound*, but no less than whole.

    >>> number_to_bound(6.0049, 0.351)
    '6.00'
    """
    if value is None or not bound or not math.isfinite(bound):
        return number(value)
    exponent = int(f"{bound:.1e}".partition("e")[2])
    return f"{value:z.{min(max(1 - exponent, 0), _MOST_PLACES)}f}"


def number(value: float | None, unit: str = "") -> str:
    """
    *value* with *unit*, without a prefix.

    >>> number(1287.1975, "tokens/s")
    '1287 tokens/s'
    """
    if value is None:
        return MISSING
    digits = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{digits} {unit}".rstrip()


def share(value: float | None) -> str:
    """
    *value* in percent, of two digits.

    >>> share(0.0345)
    '3.5%'
    """
    return MISSING if value is None else f"{float(f'{100 * value:.2g}'):g}%"


def count(value: int | None) -> str:
    """*value* with commas between its thousands."""
    return MISSING if value is None else f"{value:,}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """
    *number* and what there are so many of: *one*, or *many*, which is *one* with an s.

    >>> counted(2, "fault")
    '2 faults'
    """
    return f"{count(number)} {one if number == 1 else many or f'{one}s'}"


def figure(value: float | None) -> str:
    """
    *value* with as many digits as two figures are told apart by.

    >>> figure(1234.56789)
    '1234.568'
    """
    return MISSING if value is None else f"{value:.7g}"


def _prefix(value: float) -> tuple[float, str]:
    found = ((size, prefix) for size, prefix in _PREFIXES if abs(value) >= size)
    return next(found, (1.0, ""))


def _scaled(part: float, value: float, bound: float, unit: str) -> str:
    """*part* of *value* and *bound*, with the prefix of the larger of the two."""
    size, prefix = _prefix(max(abs(value), bound))
    return f"{number_to_bound(part / size, bound / size)} {prefix}{unit}"
