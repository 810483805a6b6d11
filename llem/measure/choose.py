"""Which meter a configuration asks for, and why there is none where none answers."""

from collections.abc import Callable, Sequence

from llem.domain.config import EnergyConfig
from llem.errors import MeterError
from llem.measure.nvml import NvmlMeter
from llem.measure.rapl import RaplMeter
from llem.measure.zeus import ZeusMeter
from llem.protocols import EnergyMeter


def open_meter(
    config: EnergyConfig, *, uuids: Sequence[str] | None = None
) -> tuple[EnergyMeter | None, tuple[str, ...]]:
    """
    The meter that *config* asks for, or None and why, one line for each that does not answer.

    Args:
        config: nvml, rapl, zeus, auto for the first of nvml and rapl that answers, or None for no
            meter.
        uuids: The GPUs that the run uses. None: those that CUDA shows to this process.

    Raises:
        MeterError: A meter asked for by name does not answer.
    """
    meters: dict[str, Callable[[], EnergyMeter]] = {
        "nvml": lambda: NvmlMeter(uuids=uuids),
        "rapl": RaplMeter,
        "zeus": lambda: ZeusMeter(uuids),
    }
    if config.backend is None:
        return None, ("energy.backend is None: no meter was asked for",)
    if config.backend != "auto":
        return meters[config.backend](), ()
    reasons: list[str] = []
    for name in ("nvml", "rapl"):
        try:
            return meters[name](), tuple(reasons)
        except MeterError as error:
            reasons.append(str(error))
    return None, tuple(reasons)
