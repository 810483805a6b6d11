"""Figures as people read them: three to four digits, a unit, and a dash for what is not known."""

MISSING = "-"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


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
    size, prefix = next(
        ((size, prefix) for size, prefix in _PREFIXES if abs(value) >= size), (1.0, "")
    )
    return f"{value / size:.4g} {prefix}{unit}".rstrip()


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


def figure(value: float | None) -> str:
    """
    *value* with as many digits as two figures are told apart by.

    >>> figure(1234.56789)
    '1234.568'
    """
    return MISSING if value is None else f"{value:.7g}"
