"""Which meter a configuration gets."""

import pytest

from llem.domain.config import EnergyConfig
from llem.errors import MeterError
from llem.measure import NvmlMeter, RaplMeter, choose, open_meter


@pytest.fixture
def no_counters(monkeypatch, tmp_path) -> None:
    """A machine without RAPL counters."""
    monkeypatch.setattr(choose, "RaplMeter", lambda: RaplMeter(str(tmp_path / "none")))


@pytest.fixture
def counters(monkeypatch, powercap) -> None:
    tree = powercap("intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(choose, "RaplMeter", lambda: RaplMeter(str(tree.parent)))


def test_none_is_asked_for() -> None:
    meter, reasons = open_meter(EnergyConfig(backend=None))
    assert meter is None
    assert reasons == ("energy.backend is None: no meter was asked for",)


def test_first_that_answers(driver, counters) -> None:
    meter, reasons = open_meter(EnergyConfig())
    meter.close()
    assert (meter.name, reasons) == ("nvml", ())


def test_second_and_why_not_the_first(no_driver, counters) -> None:
    meter, reasons = open_meter(EnergyConfig())
    meter.close()
    assert meter.name == "rapl"
    assert len(reasons) == 1
    assert reasons[0].startswith("NVML")


def test_none_answers(no_driver, no_counters) -> None:
    """Without any meter there is one line for each, which says what to do."""
    meter, reasons = open_meter(EnergyConfig(backend="auto"))

    assert meter is None
    assert [reason.split()[0] for reason in reasons] == ["NVML", "RAPL:"]
    assert not any("\n" in reason for reason in reasons)


def test_named(driver, counters) -> None:
    for name, kind in (("nvml", NvmlMeter), ("rapl", RaplMeter)):
        meter, reasons = open_meter(EnergyConfig(backend=name))
        meter.close()
        assert (type(meter), reasons) == (kind, ())


def test_named_that_does_not_answer(no_driver, no_counters) -> None:
    for name in ("nvml", "rapl"):
        with pytest.raises(MeterError):
            open_meter(EnergyConfig(backend=name))


def test_not_built_in() -> None:
    with pytest.raises(MeterError, match=r"zeus is not built into this version.*nvml or rapl"):
        open_meter(EnergyConfig(backend="zeus"))


def test_devices_of_the_backend(driver) -> None:
    driver.set(count=3)
    uuid = "GPU-20000000-0000-0000-0000-000000000000"
    meter, _ = open_meter(EnergyConfig(), uuids=[uuid])
    meter.close()
    assert [device.uuid for device in meter.devices] == [uuid]
