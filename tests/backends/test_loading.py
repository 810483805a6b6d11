"""Whatever keeps a model from being loaded is one line that names it and says what to do."""

import http.server
import json
import logging
import shutil
import threading
import time
import warnings

import pytest

from llem.errors import BackendError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")

from llem.backends import loading  # noqa: E402, it needs torch

NOWHERE = "http://127.0.0.1:9"


def point_hub_at(monkeypatch, address: str) -> None:
    """Have the hub's client ask *address*."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """No test reaches the real hub or the models that this machine has downloaded."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    point_hub_at(monkeypatch, NOWHERE)
    return cache


@pytest.fixture
def hub_that_answers(monkeypatch):
    """Makes a hub that answers every request with a status and an error code."""
    servers = []

    def start(status: int, code: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        point_hub_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(backend, config) -> str:
    """The one line that refuses *config*."""
    with pytest.raises(BackendError) as caught:
        backend.load(config)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_model_without_network_fails_at_once(backend, small):
    """A name that is nowhere is refused in seconds, although the library would retry for long."""
    start = time.perf_counter()

    text = refusal(backend, small(model="llem-no-such/model"))

    assert time.perf_counter() - start < 5
    assert "'llem-no-such/model' is neither a folder here nor among the downloaded models" in text
    assert "the network" in text


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        (404, "RepoNotFound", "is neither on the hub nor a folder here: check the name"),
        (403, "GatedRepo", "is gated: accept its terms"),
        (404, "EntryNotFound", "has no config.json on the hub"),
        (503, "", "the hub cannot be reached"),
    ],
)
def test_refusal_of_the_hub(backend, small, hub_that_answers, status, code, wanted):
    """What the hub says of a model is told apart."""
    hub_that_answers(status, code)

    assert wanted in refusal(backend, small(model="some/model"))


def test_downloaded_model_needs_no_network(backend, small, hub, saved_model):
    """A model that was downloaded before loads while the hub cannot be reached."""
    repository = hub / "models--some--model"
    shutil.copytree(saved_model, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    start = time.perf_counter()

    assert backend.load(small(model="some/model")).parameters > 0
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("path", ["/llem/no/such/folder", "./no-such-folder", "a/b/c"])
def test_missing_folder(backend, small, path):
    """A path that does not exist is named."""
    text = refusal(backend, small(model=path))

    assert f"model {path!r} is neither a folder here nor a name the hub can have" in text


def test_file_as_model(backend, small, saved_model):
    """A file inside of the right folder is refused with what to name instead."""
    assert "is a file: name the folder" in refusal(
        backend, small(model=str(saved_model / "config.json"))
    )


def test_folder_without_config(backend, small, tmp_path):
    """A folder that holds no model is named."""
    text = refusal(backend, small(model=str(tmp_path)))

    assert f"model {str(tmp_path)!r} is a folder without a config.json" in text


def test_folder_without_weights(backend, small, saved_model, tmp_path):
    """A configuration alone is no model."""
    shutil.copy(saved_model / "config.json", tmp_path)

    text = refusal(backend, small(model=str(tmp_path)))

    assert f"model {str(tmp_path)!r} cannot be loaded as a causal language model" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no-such-architecture"}'])
def test_broken_config(backend, small, tmp_path, content):
    """A configuration that is none is refused in one line."""
    (tmp_path / "config.json").write_text(content)

    assert "cannot be loaded" in refusal(backend, small(model=str(tmp_path)))


def test_incomplete_weights(backend, small, saved_model, tmp_path):
    """Weights that the checkpoint lacks are not made up."""
    folder = shutil.copytree(saved_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))

    text = refusal(backend, small(model=str(folder)))

    assert "lacks 9 of its weights, such as model.layers.2." in text


def test_unknown_builtin_model(backend, small):
    """A built-in model that does not exist is met with those that do."""
    assert "is not built in: use builtin:tiny-llama" in refusal(backend, small(model="builtin:x"))


@pytest.mark.parametrize("device", ["nowhere", "meta", "cuda:97", "cpu:x", "xpu"])
def test_wrong_device(backend, small, device):
    """A device that is not here is met with those that are."""
    text = refusal(backend, small(device=device))

    assert text.startswith(f"device {device!r} cannot be used here: use one of ")
    assert text.endswith("cpu")


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_model_that_does_not_fit(backend, small, monkeypatch, fault):
    """Running out of memory names the model and what would need less."""

    def fail(*_):
        raise fault

    monkeypatch.setattr(loading, "LlamaForCausalLM", fail)

    text = refusal(backend, small())

    assert "'builtin:tiny-llama' does not fit into the memory of cpu in fp32" in text


def test_tokenizer_is_needed_for_text_alone(backend, small, saved_model, tmp_path):
    """A folder without a tokenizer runs synthetic prompts, and is refused for a text dataset."""
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    dataset = tmp_path / "prompts.txt"
    dataset.write_text("the quick brown fox\n")

    assert backend.load(small(model=str(folder))).parameters > 0
    assert "has no tokenizer" in refusal(backend, small(model=str(folder), dataset=str(dataset)))


def test_loading_and_running_print_nothing(backend, small, saved_model, capfd, caplog):
    """Progress bars and remarks of the libraries stay away from the terminal."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        # Two limits of the length make transformers remark on it.
        backend.load(small(model=str(saved_model), passthrough_kwargs={"max_length": 50}))
        for prompt in backend.prompts():
            backend.generate([prompt])
        with pytest.raises(BackendError):
            backend.load(small(model="llem-no-such/model"))
    finally:
        library.removeHandler(caplog.handler)

    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_warnings_of_libraries_while_loading(backend, small, monkeypatch):
    """What a library warns of while it builds a model reaches nobody."""
    build = loading.LlamaForCausalLM

    def warn(architecture):
        warnings.warn("a remark", UserWarning, stacklevel=1)
        return build(architecture)

    monkeypatch.setattr(loading, "LlamaForCausalLM", warn)

    assert backend.load(small()).parameters > 0


def test_library_settings_are_left_as_they_were(backend, small):
    """Whoever uses transformers in the same process finds its settings unchanged."""

    def settings():
        logs = [logging.getLogger(name).level for name in ("transformers", "huggingface_hub")]
        bars = transformers.utils.logging.is_progress_bar_enabled()
        hub_bars = huggingface_hub.utils.are_progress_bars_disabled()
        return logs, bars, hub_bars, list(warnings.filters)

    huggingface_hub.utils.disable_progress_bars()
    try:
        before = settings()
        backend.load(small())
        assert settings() == before
    finally:
        huggingface_hub.utils.enable_progress_bars()


class Gpus:
    """Stands in for CUDA, with so many GPUs, of which work on one of *broken* fails."""

    def __init__(self, monkeypatch, count: int, broken: tuple[str, ...] = ()) -> None:
        self.used: list[str] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

        def zeros(_size: int, device: torch.device) -> torch.Tensor:
            self.used.append(str(device))
            if str(device) in broken:
                raise RuntimeError("CUDA error")
            return torch.ones(1)

        monkeypatch.setattr(loading.torch, "zeros", zeros)


@pytest.mark.parametrize("setting", [None, "cuda"])
@pytest.mark.parametrize(
    ("local_rank", "count", "device"),
    [
        (None, 4, "cuda:0"),
        ("0", 4, "cuda:0"),
        ("3", 4, "cuda:3"),
        ("5", 4, "cuda:1"),
        ("x", 4, "cuda:0"),
    ],
)
def test_each_rank_of_a_machine_has_a_gpu(monkeypatch, setting, local_rank, count, device) -> None:
    """No other one is touched, where a context would take memory."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    gpus = Gpus(monkeypatch, count)

    assert str(loading.pick_device(setting)) == device
    assert gpus.used == [device]


def test_a_gpu_that_is_named_is_taken(monkeypatch) -> None:
    """Whatever the rank."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    gpus = Gpus(monkeypatch, 4)

    assert str(loading.pick_device("cuda:2")) == "cuda:2"
    assert gpus.used == ["cuda:2"]


def test_without_a_gpu_it_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    Gpus(monkeypatch, 0)

    assert str(loading.pick_device(None)) == "cpu"


def test_a_gpu_that_does_not_work_is_told(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    Gpus(monkeypatch, 2, broken=("cuda:1",))

    with pytest.raises(BackendError, match=r"device 'cuda' cannot be used here: use one of cuda:0"):
        loading.pick_device(None)
