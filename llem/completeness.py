"""Whether the processes of a run have all left what they measured, whole, and of this run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from llem.domain.fields import shown
from llem.domain.spool import (
    CONDITIONS,
    MARKER,
    PARTS,
    RECORD,
    Found,
    Marker,
    RunManifest,
    file_name,
    named,
)


@attrs.frozen(kw_only=True)
class Problem:
    """
    One thing that is wrong with what one process left.

    Attributes:
        process_index: The process.
        kind: What kind of problem, a stable word. missing: no file of it is there. unmarked: it has
            no marker. unexpected: the run has no such process. duplicate: several records say that
            they are of it. misnamed: its record says that it is of another process. unreadable: a
            file of it cannot be read, or holds something else. other_run, other_process: so says
            its marker. not_vouched: its marker does not name a file. file_missing: its marker names
            a file that is not there. digest: a file is not what was written. experiment, config:
            its record is of another experiment, or another configuration.
        text: What is wrong.
        advice: What to do about it, where that is not plain.
    """

    process_index: int
    kind: str
    text: str
    advice: str = ""


@attrs.frozen(kw_only=True)
class Completeness:
    """
    What looking at every process of a run came to.

    Attributes:
        num_processes: Processes that the run is made of.
        problems: All that is wrong, by process. Empty: the run is complete.
        usable: The processes whose parts are whole, in order. They may be aggregated without the
            others where that is asked for.
    """

    num_processes: int
    problems: tuple[Problem, ...]
    usable: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether every process is whole, and nothing else is there."""
        return not self.problems

    @property
    def missing(self) -> tuple[int, ...]:
        """The processes of the run that are not whole."""
        usable = {*self.usable}
        return tuple(index for index in range(self.num_processes) if index not in usable)

    @property
    def lines(self) -> tuple[str, ...]:
        """Every problem, with the processes that have it."""
        return self._told(lambda problem: problem.text)

    def _told(self, words: Callable[[Problem], str]) -> tuple[str, ...]:
        by_words: dict[str, list[int]] = {}
        for problem in self.problems:
            by_words.setdefault(words(problem), []).append(problem.process_index)
        return tuple(f"{named(indices)}: {said}" for said, indices in by_words.items())

    def __str__(self) -> str:
        """
        Every problem, with the processes that have it and what to do, in a line each.

        >>> def died(index):
        ...     return Problem(process_index=index, kind="missing", text="left nothing")
        >>> print(Completeness(num_processes=4, problems=(died(0), died(2), died(3)), usable=(1,)))
        1 of 4 processes is whole
          ranks 0, 2-3: left nothing
        """
        count = len(self.usable)
        lines = [f"{count} of {self.num_processes} processes {'is' if count == 1 else 'are'} whole"]
        lines += self._told(lambda one: ": ".join(filter(None, [one.text, one.advice])))
        return "\n  ".join(line.replace("\n", "\n  ") for line in lines)


def check_completeness(manifest: RunManifest, found: Iterable[Found]) -> Completeness:
    """
    Look at what was *found* of each process of a run. Its order does not matter.

    Args:
        manifest: The run.
        found: What was found, of one spool or of several.
    """
    by_name = sorted(found, key=lambda one: one.index)
    count = manifest.num_processes
    claims = Counter(index for one in by_name for index in {one.index, one.process_index})
    there = {one.index for one in by_name}
    problems = [
        *(_missing(index, manifest) for index in range(count) if index not in there),
        *(_duplicate(i, n) for i, n in claims.items() if i is not None and n > 1),
        *(problem for one in by_name for problem in _problems(one, manifest)),
    ]
    wrong = {problem.process_index for problem in problems}
    return Completeness(
        num_processes=count,
        problems=tuple(sorted(problems, key=lambda p: (p.process_index, p.kind, p.text))),
        usable=tuple(index for index in range(count) if index not in wrong),
    )


def _missing(index: int, manifest: RunManifest) -> Problem:
    return Problem(
        process_index=index,
        kind="missing",
        text="left nothing",
        advice=_advice_on_missing(index, manifest.places),
    )


def _advice_on_missing(index: int, places: Sequence[str]) -> str:
    """Whoever aggregates does so most often where rank 0 was to."""
    if not places:
        return "copy the files that it left on its own machine into this folder, or see why it died"
    if len({*places}) == 1 or (index > 0 and places[index] == places[0]):
        return "see whether it measures still, why it died, or says that its files lie elsewhere"
    advice = f"copy the files that it left in {places[index]} into this folder, if there are any"
    if index == 0:
        advice += "; `llem list` there says whether it has kept the result of all"
    return advice


def _duplicate(index: int, count: int) -> Problem:
    return Problem(
        process_index=index,
        kind="duplicate",
        text=f"{count} processes say that they are this one",
        advice="give each a rank of its own",
    )


def _problems(one: Found, manifest: RunManifest) -> Iterator[Problem]:
    for kind, text in (*_faults(one, manifest), *_faults_of_marker(one, manifest)):
        yield Problem(process_index=one.index, kind=kind, text=text)


def _faults(one: Found, manifest: RunManifest) -> Iterator[tuple[str, str]]:
    if one.index >= (count := manifest.num_processes):
        text = f"the run is made of {count} processes: take its files away, or see why there are"
        yield "unexpected", f"{text} more"
    if one.process_index not in (None, one.index):
        text = f"its record says that it is of process {one.process_index}: its files were renamed"
        yield "misnamed", text
    for part, fault in one.faults.items():
        yield "unreadable", f"its {part} cannot be read: {fault}"
    if one.experiment_id not in (None, manifest.experiment_id):
        text = f"is of {shown(one.experiment_id)}, and the run of {shown(manifest.experiment_id)}"
        yield "experiment", f"its record {text}: its files are those of another run"
    found, wanted = one.measurement_config_hash, manifest.measurement_config_hash
    if found not in (None, wanted):
        text = f"its configuration has the hash {found}, and that of the run {wanted}"
        yield "config", f"{text}: give all processes the same configuration"


def _faults_of_marker(one: Found, manifest: RunManifest) -> Iterator[tuple[str, str]]:
    marker = one.marker
    if marker is None:
        if MARKER not in one.faults:
            text = "has no marker, so that nothing vouches for its files: it still writes them, or"
            yield "unmarked", f"{text} died while it did"
        return
    if marker.run_id != manifest.run_id:
        text = f"its marker is of run {shown(marker.run_id)}, not of {shown(manifest.run_id)}"
        yield "other_run", f"{text}: its files are those of another run"
    if marker.process_index != one.index:
        text = f"its marker is of process {marker.process_index}: its files were renamed"
        yield "other_process", text
    yield from _faults_of_files(one, marker)


def _faults_of_files(one: Found, marker: Marker) -> Iterator[tuple[str, str]]:
    parts = {file_name(one.index, part): part for part in PARTS}
    wanted = {file_name(one.index, part) for part in (RECORD, CONDITIONS)}
    for name in sorted((wanted | one.sha256.keys()) - marker.files.keys()):
        yield "not_vouched", f"its marker does not name its {parts.get(name, name)}"
    for name, digest in marker.files.items():
        what = f"its {parts[name]}" if name in parts else shown(name)
        if name in one.sha256:
            if one.sha256[name] != digest:
                yield "digest", f"the SHA-256 of {what} is not that of what was written"
        elif parts.get(name) not in one.faults:
            yield "file_missing", f"its marker names {what}, and there is no such file"
