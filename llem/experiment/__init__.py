"""
One run from start to a result, whatever runs the model: the place where the stages meet.

`Experiment` measures one process; `conclude` makes the result of all of them.
"""

from llem.experiment.conclusion import INCOMPLETE, Part, conclude
from llem.experiment.joint import reason_of
from llem.experiment.run import Experiment, Progress, llem_version

__all__ = ["INCOMPLETE", "Experiment", "Part", "Progress", "conclude", "llem_version", "reason_of"]
