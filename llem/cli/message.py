"""What is said on stderr."""

import sys

from llem.report.figures import printable


def say(message: str) -> None:
    """Print *message* on stderr; what a terminal might obey in it is spelled out."""
    lines = "\n".join(map(printable, message.split("\n")))
    print(f"llem: {lines}", file=sys.stderr)
