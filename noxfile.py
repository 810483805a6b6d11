"""Tests, lint, types, benchmarks, fuzzing and the demo, each in an environment of its own."""

import shutil
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
CONSTRAINED = ("-c", "constraints.txt")

nox.options.sessions = ["tests", "lint", "typing"]
nox.options.error_on_missing_interpreters = False


def install(session: nox.Session, *what: str, group: str) -> None:
    """Install *what* and the dependency group *group*, in the versions that were tested."""
    dependencies = nox.project.dependency_groups(PYPROJECT, group)
    session.install(*CONSTRAINED, *what, *dependencies)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the installed package, and measure what they cover."""
    install(session, ".[torch]", group="tests")
    arguments = session.posargs or ["--cov", "--cov-report=term"]
    # Not even a child process of a test may take the checkout for the installed package.
    session.run("pytest", *arguments, env={"PYTHONSAFEPATH": "1"})


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, group="lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=PYTHONS[0])
def typing(session: nox.Session) -> None:
    """Check types, of the package and of what uses it."""
    install(session, ".[torch]", "hypothesis", "pytest", group="typing")
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing/api.py")
    session.run("basedpyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Run the benchmarks, each beside what a user would pick instead."""
    install(session, ".", group="bench")
    # Its save and load need nothing of what all of it needs.
    session.install(*CONSTRAINED, "--no-deps", "llenergymeasure")
    session.run("pytest", "benchmarks", "-q", *session.posargs)


@nox.session(python=PYTHONS[0])
def demo(session: nox.Session) -> None:
    """Run the main job, and look at what it kept."""
    session.install(*CONSTRAINED, ".[torch]")
    root = Path(session.create_tmp()) / "results"
    shutil.rmtree(root, ignore_errors=True)
    session.run("llem", "run", "--root", str(root))
    session.run("llem", "list", "--root", str(root))
    session.run("llem", "verify", "--root", str(root))


@nox.session(python=PYTHONS[0])
def fuzz(session: nox.Session) -> None:
    """Look for bytes that a reader cannot take, for a minute each, or with the flags given."""
    install(session, ".", group="fuzz")
    folder = Path(session.create_tmp())
    for target in ("document", "foreign", "sidecar"):
        found = folder / target
        found.mkdir(exist_ok=True)
        session.run(
            "python",
            "tests/fuzz/fuzz.py",
            target,
            str(found),
            f"tests/fuzz/corpus/{target}",
            f"-artifact_prefix={folder}/{target}-",
            *(session.posargs or ["-max_total_time=60"]),
        )
