"""The connection to NVML: its errors, its fields, and which GPUs it gives."""

import ctypes
import math
import os
import re
import sys
import types

import pynvml
import pytest

from llem.errors import MeterError
from llem.measure import nvml_client
from llem.measure.nvml_client import ADVICE, FieldValue, NvmlClient, message

UUIDS = [f"GPU-{i}0000000-0000-0000-0000-000000000000" for i in range(8)]
BARE = [uuid.removeprefix("GPU-") for uuid in UUIDS]
INSTANCE = "77777777-0000-0000-0000-000000000000"

CODES = {
    name: value for name, value in vars(pynvml).items() if re.fullmatch("NVML_ERROR_[A-Z_]+", name)
}


@pytest.fixture
def client(driver):
    client = NvmlClient()
    yield client
    client.close()


@pytest.fixture
def cuda(monkeypatch):
    """What CUDA answers, and how often it was asked."""
    asked = types.SimpleNamespace(answer=None, times=0)

    def ask() -> tuple[str, ...] | None:
        asked.times += 1
        return asked.answer

    monkeypatch.setattr(nvml_client, "ask_cuda", ask)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return asked


def shown(client: NvmlClient, uuids: list[str] | None = None) -> list[str]:
    return [gpu.uuid for gpu in client.gpus(uuids)]


def test_every_error_of_the_binding_has_advice() -> None:
    assert CODES.keys() >= {"NVML_ERROR_UNINITIALIZED", "NVML_ERROR_UNKNOWN"}
    assert set(CODES.values()) - ADVICE.keys() == set()


def test_advice_is_about_errors_that_exist() -> None:
    assert ADVICE.keys() == set(CODES.values())


@pytest.mark.parametrize("code", [*sorted(ADVICE), 31, 777, -1])
def test_error_is_one_line_with_advice(driver, code: int) -> None:
    """Every return code, also one that nobody knows, becomes an error that says what to do."""
    driver.set(nvmlDeviceGetCount_v2=code)
    client = NvmlClient()

    with pytest.raises(MeterError) as caught:
        client.call("nvmlDeviceGetCount")
    client.close()

    start, problem, advice = str(caught.value).split(": ", 2)
    assert start == "NVML (nvmlDeviceGetCount)"
    assert problem
    assert advice
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, pynvml.NVMLError)
    assert client.ask("nvmlDeviceGetCount") is None


def test_no_two_errors_read_alike() -> None:
    codes = [*ADVICE, 31, 777]
    assert len({message(code, "x") for code in codes}) == len(codes)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AttributeError("nvmlNew"), "lacks the function: update"),
        (pynvml.NVMLLibraryMismatchError("use matching\nversions"), "lacks the function: update"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (ValueError("NULL pointer\naccess"), "NULL pointer access: update the NVIDIA driver"),
        (OSError("no such\nfile"), "no such file: update the NVIDIA driver"),
    ],
)
def test_errors_that_are_not_of_nvml(client, monkeypatch, error: Exception, words: str) -> None:
    """What a binding of another age than the library raises is an error of ours too."""

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(pynvml, "nvmlDeviceGetSerial", fail)

    with pytest.raises(MeterError, match=rf"^NVML \(nvmlDeviceGetSerial\): .*{words}") as caught:
        client.call("nvmlDeviceGetSerial", None)
    assert "\n" not in str(caught.value)
    assert client.ask("nvmlDeviceGetSerial", None) is None


def test_function_that_the_binding_lacks(client) -> None:
    with pytest.raises(MeterError, match=r"nvmlOfTomorrow.*lacks the function.*nvidia-ml-py"):
        client.call("nvmlOfTomorrow")
    assert client.ask("nvmlOfTomorrow") is None


def test_older_binding_without_the_mismatch_error(driver, monkeypatch) -> None:
    monkeypatch.delattr(pynvml, "NVMLLibraryMismatchError")
    client = NvmlClient()
    assert client.ask("nvmlDeviceGetHandleByIndex", 99) is None
    client.close()


def test_errors_in_our_own_calls_are_not_hidden(client) -> None:
    """A wrong number of arguments is no failing of the driver."""
    with pytest.raises(TypeError):
        client.ask("nvmlDeviceGetName")


def test_bytes_are_text(client, monkeypatch) -> None:
    """Older bindings give bytes."""
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: b"GPU-abc")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"NVIDIA \xc2\xb5")
    (gpu,) = client.gpus()
    assert (gpu.uuid, gpu.name) == ("GPU-abc", "NVIDIA \u00b5")


def test_name_that_is_no_text(client, monkeypatch) -> None:
    """A name that cannot be read spoils nothing; without a UUID there is no GPU to speak of."""
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"\xff")
    assert [gpu.name for gpu in client.gpus()] == ["GPU"]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: b"\xff")
    with pytest.raises(MeterError, match="nvmlDeviceGetUUID"):
        client.gpus()


def test_missing_binding(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        NvmlClient()


def test_gpu_that_does_not_answer(driver, client) -> None:
    """The error says which; one that this user may not see is none of this process's."""
    driver.set(count=2, gpu1__nvmlDeviceGetHandleByIndex_v2=4)
    assert shown(client) == UUIDS[:1]

    driver.set(gpu1__nvmlDeviceGetHandleByIndex_v2=15)
    with pytest.raises(MeterError, match=r"^NVML \(GPU 1\): .*fallen off the bus"):
        client.gpus()


def test_library(client, fake_library) -> None:
    """Another process that loads the library of this name has the same one."""
    assert client.library == os.fspath(fake_library)
    assert ctypes.CDLL(client.library)._handle == pynvml.nvmlLib._handle


FIELDS = {
    "NVML_FI_DEV_POWER_AVERAGE": 185,
    "NVML_FI_DEV_POWER_INSTANT": 186,
    "NVML_FI_DEV_POWER_MIN_LIMIT": 187,
}


@pytest.fixture
def fields(monkeypatch):
    """What the fields answer, by number and scope: return code, type, member, value, timestamp."""
    answers: dict[tuple[int, int], tuple[int, int, str, float, int]] = {}
    calls = []

    def get(handle, asked):
        calls.append(list(asked))
        values = (pynvml.c_nvmlFieldValue_t * len(asked))()
        for value, (number, scope) in zip(values, asked, strict=True):
            value.fieldId, value.scopeId = number, scope
            code, kind, member, said, timestamp = answers.get((number, scope), (3, 0, "", 0, 0))
            value.nvmlReturn, value.valueType, value.timestamp = code, kind, timestamp
            if member:
                setattr(value.value, member, said)
        return values

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", get)
    return types.SimpleNamespace(answers=answers, calls=calls)


@pytest.mark.parametrize(
    ("kind", "member", "value"),
    [
        (pynvml.NVML_VALUE_TYPE_DOUBLE, "dVal", 0.5),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", 2**32 - 1),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG, "ulVal", 2**63 + 1),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, "ullVal", 2**64 - 1),
        (pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG, "sllVal", -(2**62)),
        (pynvml.NVML_VALUE_TYPE_SIGNED_INT, "siVal", -5),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT, "usVal", 65535),
    ],
)
def test_field_of_every_type(client, fields, kind: int, member: str, value: float) -> None:
    """A field has the value of its own type."""
    fields.answers[186, 0] = (0, kind, member, value, 0)
    found = client.read_field(None, "NVML_FI_DEV_POWER_INSTANT")
    assert found == FieldValue(value=value, timestamp_s=None, scope=0)
    assert client.field(None, "NVML_FI_DEV_POWER_INSTANT") == int(value)


def test_types_of_fields_are_all_known() -> None:
    assert len(nvml_client._MEMBERS) == pynvml.NVML_VALUE_TYPE_COUNT


@pytest.mark.parametrize("answer", [(0, 7, "uiVal", 1, 0), (0, 0, "dVal", math.nan, 0)])
def test_field_without_a_number(client, fields, answer: tuple[int, int, str, float, int]) -> None:
    """A type of tomorrow, and what is no number, are unknown."""
    fields.answers[186, 0] = answer
    assert client.read_field(None, "NVML_FI_DEV_POWER_INSTANT") is None
    assert client.field(None, "NVML_FI_DEV_POWER_INSTANT") is None


def test_fields_have_their_own_return_codes(client, fields) -> None:
    """A field that fails is unknown, whatever value it holds, and spoils none beside it."""
    fields.answers[185, 0] = (0, 1, "uiVal", 100, 0)
    fields.answers[186, 0] = (3, 1, "uiVal", 200, 0)
    fields.answers[187, 0] = (0, 1, "uiVal", 300, 0)
    found = client.fields(None, tuple(FIELDS))
    assert [field and field.value for field in found] == [100, None, 300]
    assert len(fields.calls) == 1


def test_fields_say_when_they_were_read(client, fields) -> None:
    """NVML's microseconds are seconds; where it gives none the time is unknown."""
    fields.answers[185, 0] = (0, 1, "uiVal", 100, 1_700_000_000_250_000)
    fields.answers[186, 0] = (0, 1, "uiVal", 100, 0)
    dated, undated = client.fields(None, list(FIELDS)[:2])
    assert dated.timestamp_s == 1_700_000_000.25
    assert undated.timestamp_s is None


def test_fields_of_a_scope(client, fields) -> None:
    """One field may be asked about several parts of the device."""
    name = "NVML_FI_DEV_POWER_INSTANT"
    fields.answers[186, 0] = (0, 1, "uiVal", 100, 0)
    fields.answers[186, 1] = (0, 1, "uiVal", 300, 0)
    module, gpu, memory = client.fields(None, [(name, 1), name, (name, 2)])
    assert (module.value, module.scope) == (300, 1)
    assert (gpu.value, gpu.scope) == (100, 0)
    assert memory is None


def test_fields_that_the_binding_lacks(client, fields, monkeypatch) -> None:
    """Those that it knows are asked all the same; NVML is not asked for none."""
    fields.answers[186, 0] = (0, 1, "uiVal", 100, 0)
    lacking, found = client.fields(None, ["NVML_FI_DEV_OF_TOMORROW", "NVML_FI_DEV_POWER_INSTANT"])
    assert (lacking, found.value) == (None, 100)
    assert client.field(None, "NVML_FI_DEV_OF_TOMORROW") is None
    assert fields.calls == [[(186, 0)]]


def test_fields_of_a_driver_without_them(driver, client) -> None:
    driver.set(gpu0__nvmlDeviceGetFieldValues=13)
    handle = client.gpus()[0].handle
    assert client.fields(handle, list(FIELDS)) == (None, None, None)


def test_field_of_the_library(driver, client) -> None:
    """The binding's own call, on top of a library."""
    driver.set(gpu0__power_w=250)
    handle = client.gpus()[0].handle
    assert client.field(handle, "NVML_FI_DEV_POWER_INSTANT") == 250_000
    assert client.field(handle, "NVML_FI_DEV_MEMORY_TEMP") is None


@pytest.mark.parametrize(
    ("setting", "order"),
    [(None, [2, 0, 1]), ("2,0,1", [2, 0, 1]), ("GPU-2,0", [2, 0]), ("7,1", [1])],
)
def test_cuda_orders_unlike_gpus(driver, client, cuda, monkeypatch, setting, order) -> None:
    """CUDA numbers GPUs by speed, and its own word counts, not what we make of the setting."""
    driver.set(count=3, gpu1__name="NVIDIA Other")
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    cuda.answer = tuple(BARE[i] for i in order)
    assert shown(client) == [UUIDS[i] for i in order]


@pytest.mark.parametrize("order", [None, "FASTEST_FIRST", "pci_bus_id"])
def test_other_orders_are_cudas(driver, client, cuda, monkeypatch, order: str | None) -> None:
    """Whatever is not PCI_BUS_ID is CUDA's own order."""
    driver.set(count=2, gpu1__name="NVIDIA Other")
    if order is not None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    cuda.answer = (BARE[1], BARE[0])
    assert shown(client) == [UUIDS[1], UUIDS[0]]


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({}, {}),
        ({}, {"CUDA_VISIBLE_DEVICES": "2,0"}),
        ({"count": 1, "gpu0__mig": 1}, {}),
        ({"gpu1__name": "NVIDIA Other"}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ({"gpu1__name": "NVIDIA Other"}, {"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-0"}),
        ({"gpu1__name": "NVIDIA Other"}, {"CUDA_VISIBLE_DEVICES": "-1"}),
        ({"gpu1__name": "NVIDIA Other"}, {"CUDA_VISIBLE_DEVICES": ""}),
        ({"gpu1__mig": 1}, {"CUDA_VISIBLE_DEVICES": "GPU-2"}),
    ],
    ids=[
        "alike",
        "alike and chosen",
        "alone",
        "by address",
        "by UUID",
        "none by number",
        "none",
        "by UUID where one is split",
    ],
)
def test_cuda_is_asked_only_where_it_matters(
    driver, client, cuda, monkeypatch, settings: dict[str, object], variables: dict[str, str]
) -> None:
    driver.set(**{"count": 3} | settings)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client.gpus()
    assert cuda.times == 0


def test_given_uuids_need_no_order(driver, client, cuda) -> None:
    driver.set(count=2, gpu1__name="NVIDIA Other")
    assert shown(client, [BARE[1], UUIDS[0]]) == [UUIDS[1], UUIDS[0]]
    assert cuda.times == 0


@pytest.mark.parametrize("answer", [None, (), ("ffffffff",), (BARE[2], "ffffffff")])
def test_order_of_nvml_where_cuda_does_not_answer(driver, client, cuda, monkeypatch, answer):
    """No answer, and one about GPUs that NVML does not know, leave NVML's order."""
    driver.set(count=3, gpu1__name="NVIDIA Other")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    cuda.answer = answer
    assert shown(client) == [UUIDS[1], UUIDS[0]]
    assert cuda.times == 1


@pytest.mark.parametrize("order", [None, "PCI_BUS_ID"])
def test_only_cuda_knows_which_instances_it_shows(
    driver, client, cuda, monkeypatch, order: str | None
) -> None:
    """Of GPUs that are split CUDA may show one instance alone."""
    driver.set(count=2, gpu0__mig=1, gpu1__mig=1, mig0__uuid=f"MIG-{INSTANCE}", mig0__parent=1)
    if order is not None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    cuda.answer = (INSTANCE,)
    (gpu,) = client.gpus()
    assert (gpu.uuid, gpu.is_mig_parent) == (UUIDS[1], True)


@pytest.mark.parametrize(
    "uuid", [f"MIG-{INSTANCE}", INSTANCE, f"MIG-{UUIDS[1]}/3/0", UUIDS[1], BARE[1]]
)
def test_uuids_of_an_instance_or_its_gpu(driver, client, uuid: str) -> None:
    """Whichever of them a backend gives, the GPU is read, and known to be split."""
    driver.set(count=2, gpu1__mig=1, mig0__uuid=f"MIG-{INSTANCE}", mig0__parent=1)
    (gpu,) = client.gpus([uuid])
    assert (gpu.uuid, gpu.is_mig_parent) == (UUIDS[1], True)


def test_instances_share_their_gpu(driver, client, monkeypatch) -> None:
    driver.set(mig0__uuid="MIG-a", mig0__parent=0, mig1__uuid="MIG-b", mig1__parent=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert shown(client) == [UUIDS[0]]


def test_instance_of_a_gpu_that_this_user_may_not_see(driver, client, monkeypatch) -> None:
    driver.set(count=2, gpu0__nvmlDeviceGetHandleByIndex_v2=4)
    driver.set(mig0__uuid="MIG-a", mig0__parent=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a")
    assert shown(client) == []
    with pytest.raises(MeterError, match="NVML does not know MIG-a: see"):
        client.gpus(["MIG-a"])


def test_torch_in_this_process_tells_the_order(driver, client, monkeypatch) -> None:
    """From the UUIDs that torch has to the GPUs of NVML."""
    driver.set(count=2, gpu1__name="NVIDIA Other")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    devices = [types.SimpleNamespace(uuid=uuid) for uuid in (BARE[1], BARE[0])]
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        get_device_properties=lambda ordinal: devices[ordinal],
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert shown(client) == [UUIDS[1], UUIDS[0]]


def test_close_twice(driver) -> None:
    client = NvmlClient()
    client.close()
    client.close()
    assert driver.times_shut_down == 1
