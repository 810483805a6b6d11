"""``python -m llem``, and what the command ``llem`` runs: nothing loads before Ctrl-C is heeded."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from llem.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("llem: interrupted: what was not finished is not kept\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
