"""
Run a target under atheris: ``python tests/fuzz/fuzz.py TARGET CORPUS_DIR... [libFuzzer flags]``.

New cases go into the first folder; others are only read. It ends with a traceback and the case in
a file where a target lets something pass that it should not.
"""

import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["llem"]):
    import targets

    from llem.codec.converter import plain_structure
    from llem.domain.process import Timestamps

import mutators
from mutators import WORDS, records

LIMITS = ("-rss_limit_mb=2048", "-timeout=20", "-max_len=65536")


def main(name: str, *arguments: str) -> None:
    """Fuzz the target *name*."""
    for cls in records():
        if cls is not Timestamps:
            atheris.instrument_func(plain_structure(cls))
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        words.writelines(f'"{word}"\n' for word in WORDS)
        words.flush()
        flags = [*LIMITS, f"-dict={words.name}", *arguments]
        mutator = getattr(mutators, name)
        atheris.Setup([sys.argv[0], *flags], targets.TARGETS[name], custom_mutator=mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
