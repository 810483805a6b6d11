"""``python -m llem``: the command line."""

from llem.cli import main

if __name__ == "__main__":
    main()
