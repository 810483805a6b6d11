"""
The command line. A verb a file; what a verb imports loads when it runs.

Exit status: 0, 1 where it failed, 2 where it was called or configured wrongly, 130 on Ctrl-C.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from keyword import iskeyword

from cyclopts import App, CycloptsError

from llem.cli.message import say
from llem.cli.status import FAILED, INTERRUPTED, WRONG_USAGE
from llem.errors import ConfigError, LlemError, LlemWarning

VERBS = {
    "run": "Measure a model, and keep the result.",
    "list": "List the results that are kept.",
    "show": "Show one result in full.",
    "export": "Write all results as CSV.",
    "import": "Convert results that other tools or older versions wrote, and keep them.",
    "verify": "Check every result.",
    "aggregate": "Finish a run whose processes have left what they measured.",
    "env": "Say what this machine can measure, and what would stop it.",
}


def build_app(arguments: Sequence[str] = ()) -> App:
    """The command line application. A verb among *arguments* has its docstring as its help."""
    app = App(
        name="llem",
        help="Measure the energy of LLM inference, and keep the record of it.",
        version=_version,
        version_flags=["--version"],
        help_format="markdown",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for position, (verb, words) in enumerate(VERBS.items()):
        module = f"{verb}_" if iskeyword(verb) else verb
        lazily = f"llem.cli.{module}:{verb}_verb"
        brief = None if verb in arguments else words
        app.command(lazily, name=verb, help=brief, sort_key=position)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(status_of(sys.argv[1:] if arguments is None else arguments))


def status_of(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status; what went wrong is one line on stderr."""
    _prepare_streams()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LlemWarning)
            warnings.showwarning = _show_warning
            # Not list(...): once its verb has run, that name is the module llem.cli.list.
            status = build_app(arguments)([*arguments], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except (CycloptsError, LlemError, KeyboardInterrupt) as error:
        message, status = _explain(error)
        if not ([*arguments[:1]] == ["run"] and _has_rank_beside_met(error)):
            say(message)
    except OSError as error:
        return _give_up_stdout(error)
    return status if isinstance(status, int) else 0


def _give_up_stdout(error: OSError) -> int:
    """Say what keeps us from printing, unless nobody listens any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"llem: {error.filename or 'stdout'}: {error.strerror}", file=sys.stderr)
    return FAILED


def _explain(error: BaseException) -> tuple[str, int]:
    """What to say of *error*, and the exit status."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted: what was not finished is not kept{notes}", INTERRUPTED
    if isinstance(error, CycloptsError):
        line = " ".join(str(error).split())
        return f"{line} (see `llem --help`, and `--help` of each command)", WRONG_USAGE
    return f"{error}{notes}", WRONG_USAGE if isinstance(error, ConfigError) else FAILED


def _has_rank_beside_met(error: BaseException) -> bool:
    """Whether a rank that torchrun has started on this machine, with the same words, tells it."""
    is_later = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"
    return is_later and isinstance(error, CycloptsError | ConfigError | KeyboardInterrupt)


def _version() -> str:
    from importlib.metadata import version

    return f"llem {version('llem')}"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


def _prepare_streams() -> None:
    """Have streams that take whatever is printed, also where one is closed or not UTF-8."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
