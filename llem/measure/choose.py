"""Which meter a configuration asks for, and why there is none where none answers."""

from collections.abc import Callable, Sequence

from llem.domain.config import EnergyConfig
from llem.errors import MeterError
from llem.measure.nvml import NvmlMeter
from llem.measure.rapl import RaplMeter
from llem.protocols import EnergyMeter


def open_meter(
    config: EnergyConfig, *, uuids: Sequence[str] | None = None
) -> tuple[EnergyMeter | None, tuple[str, ...]]:
    """
    The meter that *config* asks for, or None and why, one line for each that does not answer.

    Args:
        config: nvml, rapl, auto for the first of them that answers, or None for no meter.
        uuids: The GPUs that the run uses. None: those that CUDA shows to this process.

    Raises:
        MeterError: A meter asked for by name does not answer, or is not part of this version.
    """
    meters: dict[str, Callable[[], EnergyMeter]] = {
        "nvml": lambda: NvmlMeter(uuids=uuids),
        "rapl": RaplMeter,
    }
    if config.backend is None:
        return None, ("energy.backend is None: no meter was asked for",)
    if config.backend != "auto":
        if config.backend not in meters:
            raise MeterError(
                f"energy.backend {config.backend} is not built into this version: "
                "use auto, nvml or rapl"
            )
        return meters[config.backend](), ()
    reasons: list[str] = []
    for opened in meters.values():
        try:
            return opened(), tuple(reasons)
        except MeterError as error:
            reasons.append(str(error))
    return None, tuple(reasons)
