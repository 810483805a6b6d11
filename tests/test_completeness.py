"""A run is complete, or every process that is not whole is named with all that is wrong with it."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.completeness import Completeness, Problem, check_completeness
from llem.domain.spool import PARTS, Found, Marker, RunManifest, file_name

HASH, OTHER_HASH = "0123456789abcdef", "fedcba9876543210"
DIGEST, OTHER_DIGEST = "1" * 64, "2" * 64
FILES = ("record", "conditions", "time series")


def run_of(count):
    return RunManifest(
        run_id="run-1",
        experiment_id="a/b",
        num_processes=count,
        measurement_config_hash=HASH,
    )


def whole(index, parts=FILES):
    """Process *index*, nothing wrong with it."""
    digests = {file_name(index, part): DIGEST for part in parts}
    return Found(
        index=index,
        process_index=index,
        experiment_id="a/b",
        measurement_config_hash=HASH,
        marker=Marker(run_id="run-1", process_index=index, files=digests),
        sha256=digests,
    )


def all_of(count):
    return {index: whole(index) for index in range(count)}


def look(found, count):
    return check_completeness(run_of(count), found)


def named(complete):
    return [(problem.process_index, problem.kind) for problem in complete.problems]


def marked(one, **fields):
    return attrs.evolve(one, marker=attrs.evolve(one.marker, **fields))


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


def record_of(one):
    return file_name(one.index, "record")


ALTERED = {
    "unmarked": lambda one: attrs.evolve(one, marker=None),
    "other_run": lambda one: marked(one, run_id="run-2"),
    "other_process": lambda one: marked(one, process_index=one.index + 1),
    "not_vouched": lambda one: marked(one, files=without(one.marker.files, record_of(one))),
    "digest": lambda one: attrs.evolve(one, sha256={**one.sha256, record_of(one): OTHER_DIGEST}),
    "file_missing": lambda one: attrs.evolve(one, sha256=without(one.sha256, record_of(one))),
    "unreadable": lambda one: attrs.evolve(one, faults={"record": "is no JSON"}),
    "experiment": lambda one: attrs.evolve(one, experiment_id="a/c"),
    "config": lambda one: attrs.evolve(one, measurement_config_hash=OTHER_HASH),
    "misnamed": lambda one: attrs.evolve(one, process_index=one.index + 1000),
    "missing": lambda one: None,
}
"""What is done to a process, by the kind of the one problem that comes of it."""


@given(st.integers(1, 40))
def test_a_whole_run_has_no_problem(count):
    complete = look(all_of(count).values(), count)

    assert complete.problems == ()
    assert complete.complete
    assert complete.usable == tuple(range(count))
    verb = "is" if count == 1 else "are"
    assert str(complete) == f"{count} of {count} processes {verb} whole"


def test_a_process_without_samples_is_whole():
    assert look([whole(0, FILES[:2])], 1).complete


@given(
    st.integers(1, 30),
    st.dictionaries(st.integers(0, 29), st.sampled_from(sorted(ALTERED))),
    st.randoms(),
)
def test_what_is_altered_is_named_exactly(count, altered, chance):
    """Whichever processes, whatever is done to each, in any order."""
    altered = {index: kind for index, kind in altered.items() if index < count}
    found = all_of(count)
    for index, kind in altered.items():
        found[index] = ALTERED[kind](found[index])
    left = [one for one in found.values() if one is not None]
    chance.shuffle(left)

    complete = look(left, count)

    assert named(complete) == sorted(altered.items())
    assert complete.complete == (not altered)
    assert complete.usable == tuple(index for index in range(count) if index not in altered)


@given(st.integers(2, 12), st.data())
def test_a_duplicate_is_named_under_both_names(count, data):
    """A record that says that it is of another process: neither of them is usable."""
    indices = st.integers(0, count - 1)
    liar, victim = data.draw(st.tuples(indices, indices).filter(lambda pair: len({*pair}) == 2))
    found = all_of(count) | {liar: attrs.evolve(whole(liar), process_index=victim)}

    complete = look(found.values(), count)

    assert named(complete) == sorted([(liar, "misnamed"), (victim, "duplicate")])
    assert {liar, victim}.isdisjoint(complete.usable)
    assert len(complete.usable) == count - 2


def test_the_same_process_in_two_spools_is_a_duplicate():
    complete = look([whole(0), whole(1), whole(1)], 2)

    assert named(complete) == [(1, "duplicate")]
    assert complete.usable == (0,)


@pytest.mark.parametrize("index", [3, 4, 2**63])
def test_a_process_that_the_run_does_not_have_is_named(index):
    complete = look([*all_of(3).values(), whole(index)], 3)

    assert named(complete) == [(index, "unexpected")]
    assert complete.usable == (0, 1, 2)
    assert "3 processes" in str(complete)


def test_a_renamed_process_makes_no_other_one_whole():
    """Process 1 is missing, though a record says that it is of it."""
    complete = look([whole(0), attrs.evolve(whole(2), process_index=1)], 3)

    assert named(complete) == [(1, "missing"), (2, "misnamed")]
    assert complete.usable == (0,)


def test_all_that_is_wrong_with_a_process_is_named():
    """Not the first of it alone."""
    one = Found(
        index=5,
        process_index=4,
        experiment_id="a/c",
        measurement_config_hash=OTHER_HASH,
        marker=Marker(
            run_id="run-2",
            process_index=6,
            files={record_of(whole(5)): DIGEST, "../secret": DIGEST},
        ),
        sha256={file_name(5, "record"): OTHER_DIGEST, file_name(5, "time series"): DIGEST},
        faults={"conditions": "is no JSON"},
    )

    complete = look([one], 1)

    kinds = [kind for index, kind in named(complete) if index == 5]
    assert kinds == [
        "config",
        "digest",
        "experiment",
        "file_missing",
        "misnamed",
        "not_vouched",
        "not_vouched",
        "other_process",
        "other_run",
        "unexpected",
        "unreadable",
    ]
    assert "'../secret'" in str(complete)


def test_a_marker_that_cannot_be_read_is_named_once():
    one = attrs.evolve(whole(0), marker=None, faults={"marker": "is no JSON"})

    assert named(look([one], 1)) == [(0, "unreadable")]


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("kind", ["not_vouched", "digest", "file_missing"])
def test_each_file_counts(kind, part):
    """The name of the part is told."""
    one, name = whole(0), file_name(0, part)
    if kind == "not_vouched":
        one = marked(one, files=without(one.marker.files, name))
    elif kind == "digest":
        one = attrs.evolve(one, sha256={**one.sha256, name: OTHER_DIGEST})
    else:
        one = attrs.evolve(one, sha256=without(one.sha256, name))

    complete = look([one], 1)

    assert named(complete) == [(0, kind)]
    assert f" its {part}" in complete.problems[0].text


@pytest.mark.parametrize("part", FILES[:2])
def test_a_marker_must_name_record_and_conditions(part):
    """Even where neither is there."""
    one, name = whole(0), file_name(0, part)
    bare = marked(one, files=without(one.marker.files, name))
    bare = attrs.evolve(bare, sha256=without(one.sha256, name))

    assert named(look([bare], 1)) == [(0, "not_vouched")]


def test_a_file_that_cannot_be_opened_is_not_missing_too():
    one, name = whole(0), file_name(0, "time series")
    one = attrs.evolve(one, sha256=without(one.sha256, name), faults={"time series": "is a FIFO"})

    complete = look([one], 1)

    assert named(complete) == [(0, "unreadable")]
    assert "is a FIFO" in str(complete)


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3"),
        ([3, 5, 6, 7, 8, 9], "ranks 3, 5-9"),
        ([0, 1], "ranks 0-1"),
        ([0, 2, 4], "ranks 0, 2, 4"),
        (range(10), "ranks 0-9"),
    ],
)
def test_ranks_with_one_problem_share_a_line(ranks, text):
    found = [one for index, one in all_of(10).items() if index not in ranks]

    lines = str(look(found, 10)).split("\n")

    left = 10 - len(ranks)
    assert lines[0] == f"{left} of 10 processes {'is' if left == 1 else 'are'} whole"
    assert [line.partition(":")[0] for line in lines[1:]] == [f"  {text}"]


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=30))
def test_the_text_lists_every_problem(pairs):
    """Each rank stands in the line of each of its problems."""
    problems = tuple(Problem(process_index=i, kind="x", text=text) for i, text in pairs)

    lines = str(Completeness(num_processes=41, problems=problems, usable=())).split("\n")[1:]

    spelled = set()
    for line in lines:
        ranks, _, text = line.partition(": ")
        for run in ranks.split(maxsplit=1)[1].split(", "):
            low, _, high = run.partition("-")
            spelled |= {(i, text) for i in range(int(low), int(high or low) + 1)}
    assert spelled == set(pairs)


def test_every_text_says_what_is_wrong_without_the_rank():
    """So that ranks with the same problem share a line."""
    for kind, do in ALTERED.items():
        found = [one for one in map(do, (whole(0), whole(1))) if one is not None]
        texts = {problem.text for problem in look(found, 2).problems}
        assert len(texts) == 1 or kind in {"misnamed", "other_process"}


def test_the_parts_end_with_the_marker():
    """Whoever writes or sends them in this order has it last."""
    assert [*PARTS][-1] == "marker"
