"""Each kept case is refused or keeps its word; and a target notices a broken promise."""

import warnings

import attrs
import pytest

from llem.errors import MalformedResultError

from . import targets

CASES = {path.relative_to(targets.CORPUS): path for path in sorted(targets.CORPUS.glob("*/*"))}
READERS = {"document": "from_json", "foreign": "convert", "sidecar": "decode"}
SEEDS = {"document": "seed_small.json", "foreign": "seed_v3", "sidecar": "seed_kept.parquet"}


def broken(reader, how):
    """*reader* with *how* coming before it, or after what it gives."""

    def read(*arguments, **others):
        return how(lambda: reader(*arguments, **others))

    return read


def raising(error):
    def how(_):
        raise error

    return how


def warning(read):
    warnings.warn("theirs", UserWarning, stacklevel=2)
    return read()


def with_half_the_tokens(read):
    result = read()
    return attrs.evolve(result, total_tokens=result.total_tokens // 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kept_case(case):
    targets.TARGETS[case.parts[0]](CASES[case].read_bytes())


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize(
    ("how", "passed_on"),
    [
        (raising(KeyError("x")), KeyError),
        (raising(RecursionError()), RecursionError),
        (raising(MemoryError()), MemoryError),
        (raising(SystemError()), SystemError),
        (warning, UserWarning),
        (raising(MalformedResultError("of\ntwo lines")), AssertionError),
        (raising(MalformedResultError("long" * 100)), AssertionError),
    ],
)
def test_a_target_notices_what_a_reader_raises(monkeypatch, target, how, passed_on):
    monkeypatch.setattr(targets, READERS[target], broken(getattr(targets, READERS[target]), how))

    with pytest.raises(passed_on):
        targets.TARGETS[target]((targets.CORPUS / target / SEEDS[target]).read_bytes())


def test_a_target_notices_what_a_reader_changes(monkeypatch):
    monkeypatch.setattr(targets, "from_json", broken(targets.from_json, with_half_the_tokens))

    with pytest.raises(AssertionError):
        targets.document((targets.CORPUS / "document" / SEEDS["document"]).read_bytes())


def test_a_target_notices_lost_rows(monkeypatch):
    monkeypatch.setattr(targets, "decode", broken(targets.decode, lambda read: read().slice(1)))

    with pytest.raises(AssertionError):
        targets.sidecar((targets.CORPUS / "sidecar" / SEEDS["sidecar"]).read_bytes())


def test_a_target_notices_lost_readings(monkeypatch):
    def without_power(read):
        return {
            index: attrs.evolve(samples, power_w=samples.power_w * float("nan"))
            for index, samples in read().items()
        }

    monkeypatch.setattr(targets, "by_device", broken(targets.by_device, without_power))

    with pytest.raises(AssertionError):
        targets.sidecar((targets.CORPUS / "sidecar" / SEEDS["sidecar"]).read_bytes())
