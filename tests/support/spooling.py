"""A run of two processes, what is done to its spool, and what may be found after."""

import attrs

from llem.codec import measurement_config_hash
from llem.completeness import check_completeness
from llem.domain.conditions import Conditions
from llem.domain.process import RawProcessResult
from llem.domain.spool import RunManifest
from llem.errors import ResultNotFoundError
from llem.store import Spool
from llem.testing import filled, small_table

RUN = "run-1"
EXPERIMENT = "team/gpt2"
PROCESS = filled(RawProcessResult, process_index=0, experiment_id=EXPERIMENT)
CONDITIONS = filled(Conditions)


def manifest_of(count):
    """A run of *count* processes."""
    return RunManifest(
        run_id=RUN,
        experiment_id=EXPERIMENT,
        num_processes=count,
        measurement_config_hash=measurement_config_hash(PROCESS.effective_config),
    )


def process_of(index):
    """What process *index* measured."""
    return attrs.evolve(PROCESS, process_index=index)


def begun(root, count):
    """The spool of a run of *count* processes."""
    spool = Spool.of(root, RUN)
    spool.begin(manifest_of(count))
    return spool


def leave(spool, index):
    """Leave what process *index* measured, with samples."""
    spool.leave(process_of(index), CONDITIONS, small_table())


def left_by(root, count):
    """The spool of a run whose *count* processes have all left."""
    spool = begun(root, count)
    for index in range(count):
        leave(spool, index)
    return spool


def look(spool):
    """Whether the run is complete."""
    return check_completeness(spool.manifest(), spool.found())


def is_whole(spool, index):
    """Whether process *index* is read as it was left."""
    part = spool.read(index)
    return (part.process, part.conditions) == (process_of(index), CONDITIONS)


class Leaving:
    """The second of two processes leaves what it measured."""

    @staticmethod
    def prepare(root):
        leave(begun(root, 2), 0)

    @staticmethod
    def act(root):
        leave(Spool.of(root, RUN), 1)

    @staticmethod
    def check(root, *, is_done):
        spool = Spool.of(root, RUN)
        complete = look(spool)
        assert complete.usable in ((0,), (0, 1))
        assert {problem.process_index for problem in complete.problems} <= {1}
        assert all(is_whole(spool, index) for index in complete.usable)
        assert complete.complete == (1 in complete.usable)
        assert complete.complete or not is_done


class Beginning:
    """A run is begun where there is not even a root."""

    @staticmethod
    def prepare(root):
        pass

    @staticmethod
    def act(root):
        begun(root, 2)

    @staticmethod
    def check(root, *, is_done):
        spool = Spool.of(root, RUN)
        try:
            assert spool.manifest() == manifest_of(2)
        except ResultNotFoundError:
            assert not is_done
        leave(begun(root, 2), 0)
        assert look(spool).usable == (0,)


class Removing:
    """The spool of a run that was aggregated is removed."""

    @staticmethod
    def prepare(root):
        left_by(root, 2)

    @staticmethod
    def act(root):
        Spool.of(root, RUN).remove()

    @staticmethod
    def check(root, *, is_done):
        spool = Spool.of(root, RUN)
        if spool.folder.exists():
            assert not is_done
            assert look(spool).complete
            assert is_whole(spool, 1)
        spool.remove()
        assert not spool.folder.parent.exists()


SPOOL_SCENES = {scene.__name__: scene for scene in (Leaving, Beginning, Removing)}
