"""Which meter a configuration gets."""

import sys

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


@pytest.mark.usefixtures("driver", "counters")
def test_not_installed(monkeypatch) -> None:
    """An optional meter names what installs it, and auto does not miss it."""
    for name in ("zeus", "zeus.monitor"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MeterError, match=r"^Zeus is missing .*pip install zeus$"):
        open_meter(EnergyConfig(backend="zeus"))
    meter, reasons = open_meter(EnergyConfig())
    meter.close()
    assert (meter.name, reasons) == ("nvml", ())


@pytest.mark.parametrize("name", ["auto", "nvml"])
def test_devices_of_the_backend(driver, name: str) -> None:
    """A meter of GPUs reads those that the run uses, and no others."""
    driver.set(count=3)
    uuid = "GPU-20000000-0000-0000-0000-000000000000"
    meter, _ = open_meter(EnergyConfig(backend=name), uuids=[uuid])
    meter.close()
    assert [device.uuid for device in meter.devices] == [uuid]


def test_zeus_reads_the_devices_of_the_backend(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(choose, "ZeusMeter", asked.append)
    assert open_meter(EnergyConfig(backend="zeus"), uuids=["GPU-a"]) == (None, ())
    assert asked == [["GPU-a"]]


def test_model_on_no_gpu(driver, counters) -> None:
    """It is metered by what reads the processor, and why is said."""
    meter, (reason,) = open_meter(EnergyConfig(), uuids=[])
    meter.close()
    assert meter.name == "rapl"
    assert "the model runs on no GPU" in reason


def test_what_does_not_answer_is_let_go(driver, counters) -> None:
    """A meter that is passed over keeps nothing open."""
    driver.set(count=0)
    meter, (reason,) = open_meter(EnergyConfig())
    meter.close()
    assert (meter.name, driver.times_shut_down) == ("rapl", 1)
    assert "NVML shows no GPU" in reason
