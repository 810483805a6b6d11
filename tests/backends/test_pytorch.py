"""What a run of a model is said to have been."""

import time
from types import SimpleNamespace

import attrs
import pytest

from llem.domain.config import DecoderConfig, ExperimentConfig, SyntheticDataset
from llem.domain.latency import MeasurementMode
from llem.errors import BackendError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llem.backends import flops as flops_module  # noqa: E402, it needs torch
from llem.backends import pytorch  # noqa: E402
from llem.backends.flops import TokenFlops  # noqa: E402


@pytest.fixture
def spy(monkeypatch):
    """The sequences that the model gave, as lists of token ids, newest last."""
    seen = []
    original = pytorch._generate

    def watched(*args, **further):
        sequences = original(*args, **further)
        seen.append(sequences.tolist())
        return sequences

    monkeypatch.setattr(pytorch, "_generate", watched)
    return seen


@pytest.fixture
def write_dataset(tmp_path):
    """Writes a dataset file, and gives its path."""

    def write(content: bytes | str) -> str:
        path = tmp_path / "prompts.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_what_the_backend_says_of_itself(backend, small):
    """Once loaded, a backend says what runs where."""
    info = backend.load(small())

    assert info.device == "cpu"
    assert info.device_name
    assert info.device_uuids == ()
    assert info.parameters == 1_118_080
    assert info.flops_method == "flop_counter"
    assert torch.__version__ in info.version
    assert transformers.__version__ in info.version


def test_memory_is_unknown_on_a_cpu(backend, small):
    """What is not measured is None."""
    info = backend.load(small())

    assert info.model_memory_mb is None
    assert info.total_memory_mb is None
    assert backend.peak_memory_mb() is None


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precision(backend, small, precision):
    """The weights have the precision that was asked for, and run in it."""
    backend.load(small(precision=precision))

    assert backend._loaded.model.dtype == pytorch_dtype(precision)
    assert backend.generate(backend.prompts()[:1]).output_tokens == (6,)


def pytorch_dtype(precision):
    """The dtype of torch that *precision* means."""
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


@pytest.mark.parametrize("size", [1, 3])
def test_token_counts_and_latencies(backend, small, size):
    """Each request gives exactly the tokens asked for, and the times of its steps add up."""
    backend.load(small(batch_size=size))

    out = backend.generate(backend.prompts()[:size])

    assert out.input_tokens == (12,) * size
    assert out.output_tokens == (6,) * size
    assert out.padding_tokens == 0
    assert len(out.itl_s) == 6 - 1
    assert 0 < out.ttft_s < out.latency_s
    assert min(out.itl_s) > 0
    assert out.ttft_s + sum(out.itl_s) <= out.latency_s
    single = size == 1
    assert out.mode is MeasurementMode("true_streaming" if single else "per_request_batch")


@pytest.mark.parametrize("passed_through", [{}, {"num_beams": 2}])
def test_a_batch_says_when_it_ended(backend, small, passed_through):
    """By the clock that energy is sampled by, so that its phases lie where they were."""
    backend.load(small(passthrough_kwargs=passed_through))

    before = time.monotonic()
    out = backend.generate(backend.prompts()[:2])
    after = time.monotonic()

    assert before <= out.ended_s - out.latency_s < out.ended_s <= after


def test_ttft_is_the_time_of_the_prefill(backend, small):
    """The first token waits for the whole prompt, the later ones for one token each."""
    dataset = SyntheticDataset(input_len=512, output_len=8)
    backend.load(small(n=1, synthetic_dataset=dataset))

    out = backend.generate(backend.prompts())

    assert out.ttft_s > min(out.itl_s)


def test_limits_cut_synthetic_prompts(backend, small):
    """The limits of the configuration hold for synthetic prompts too."""
    backend.load(small(max_input_tokens=5, max_output_tokens=2))

    out = backend.generate(backend.prompts()[:1])

    assert (out.input_tokens, out.output_tokens) == ((5,), (2,))


def test_prompts_are_seeded(backend, small):
    """The same seed gives the same prompts, another one others; none is a special token."""
    config = small(n=50)
    backend.load(config)
    first = backend.prompts()
    backend.load(config)
    again = backend.prompts()
    backend.load(attrs.evolve(config, synthetic_dataset=SyntheticDataset(input_len=12, seed=1)))
    other = backend.prompts()

    assert first == again != other
    assert len(first) == 50
    assert len(set(first)) == 50
    assert min(map(min, first)) > 2


def test_weights_are_seeded(backend, small):
    """The same random_seed gives the same built-in weights, another one others."""

    def weights(seed):
        backend.load(small(random_seed=seed))
        return backend._loaded.model.lm_head.weight.clone()

    first, again, other = weights(1), weights(1), weights(2)

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("do_sample", [False, True])
def test_same_seed_same_tokens(backend, small, spy, saved_model, do_sample):
    """A configuration that is run twice gives the same tokens twice."""
    decoder = DecoderConfig(do_sample=do_sample, min_p=0.0, top_k=0)
    config = small(n=2, model=str(saved_model), decoder=decoder)

    def run():
        backend.load(config)
        spy.clear()
        for prompt in backend.prompts():
            backend.generate([prompt])
        return list(spy)

    assert run() == run()


def test_decoder_settings_matter(backend, small, spy):
    """Sampling differs from greedy decoding, and so does a repetition penalty."""

    def tokens(**decoder):
        dataset = SyntheticDataset(input_len=12, output_len=24)
        backend.load(small(n=1, synthetic_dataset=dataset, decoder=DecoderConfig(**decoder)))
        backend.generate(backend.prompts())
        return spy[-1]

    greedy = tokens()

    assert greedy != tokens(do_sample=True, temperature=5.0)
    assert greedy == tokens(do_sample=True, top_k=1)
    assert greedy == tokens(temperature=5.0)
    assert greedy != tokens(repetition_penalty=5.0)


def test_equal_to_plain_generate(backend, small, saved_model, spy):
    """Measuring does not change what the model says."""
    backend.load(small(model=str(saved_model), n=1))
    backend.generate(backend.prompts())
    plain = transformers.AutoModelForCausalLM.from_pretrained(saved_model, dtype=torch.float32)
    plain.generation_config.eos_token_id = None
    ids = torch.tensor(backend.prompts())

    wanted = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)

    assert spy[-1] == wanted.tolist()


def test_padding_changes_no_token(backend, small, spy, write_dataset):
    """Prompts of different lengths give together what each gives alone."""
    path = write_dataset("a\nsome longer prompt\nmid size\n")
    backend.load(small(dataset=path, max_output_tokens=8))
    prompts = backend.prompts()

    together = backend.generate(prompts)
    rows = [row[-8:] for row in spy[-1]]
    alone = [backend.generate([prompt]) for prompt in prompts]

    assert rows == [row[-8:] for (row,) in spy[-3:]]
    assert together.input_tokens == (2, 19, 9)
    assert together.padding_tokens == 2 * 19 - 2 - 9
    assert together.output_tokens == tuple(out.output_tokens[0] for out in alone)
    assert together.flops == pytest.approx(sum(out.flops for out in alone))


def test_text_ends_at_end_of_sequence(backend, small, spy, write_dataset):
    """Tokens after the end of a sequence are padding, and are not counted."""
    path = write_dataset("first\nsecond one\n")
    config = small(n=2, dataset=path, max_output_tokens=10)
    backend.load(config)
    backend.generate(backend.prompts()[:1])
    third = spy[-1][0][-8]
    assert third not in spy[-1][0][-10:-8]

    backend.load(attrs.evolve(config, passthrough_kwargs={"eos_token_id": third}))
    alone = backend.generate(backend.prompts()[:1])
    both = backend.generate(backend.prompts())

    assert alone.output_tokens == (3,)
    assert len(alone.itl_s) == 2
    assert both.output_tokens == (3, 10)
    assert len(both.itl_s) == 9


def test_end_of_sequence_of_the_model(backend, small, saved_model, write_dataset):
    """Text stops at the model's own end, but synthetic prompts run to their length."""
    backend.load(small(model=str(saved_model), dataset=write_dataset("fox\n"), max_output_tokens=8))
    assert backend._loaded.arguments["eos_token_id"] == [2]

    backend.load(small(model=str(saved_model)))
    with torch.no_grad():
        backend._loaded.model.lm_head.weight.zero_()
        backend._loaded.model.model.embed_tokens.weight[2] = 1.0

    assert "eos_token_id" not in backend._loaded.arguments
    assert backend.generate(backend.prompts()[:1]).output_tokens == (6,)


def test_min_new_tokens(backend, small, write_dataset):
    """A least number of tokens holds off the end of the sequence."""
    config = small(dataset=write_dataset("x\n"), max_output_tokens=9)
    ends = {"eos_token_id": list(range(3, 2048))}
    backend.load(attrs.evolve(config, passthrough_kwargs=ends))
    early = backend.generate(backend.prompts()[:1])
    decoder = DecoderConfig(min_new_tokens=4)
    backend.load(attrs.evolve(config, decoder=decoder, passthrough_kwargs=ends))
    late = backend.generate(backend.prompts()[:1])

    assert early.output_tokens == (1,)
    assert early.itl_s == ()
    assert late.output_tokens > (4,)


def test_sampling_defaults_of_a_model_are_put_aside(backend, small, saved_model, tmp_path):
    """What a model brings along for sampling does not run unless the configuration says so."""
    model = transformers.AutoModelForCausalLM.from_pretrained(saved_model)
    model.generation_config.update(do_sample=True, temperature=0.1, repetition_penalty=3.0)
    model.save_pretrained(tmp_path)

    backend.load(small(model=str(tmp_path)))

    kept = backend._loaded.model.generation_config
    assert (kept.do_sample, kept.temperature, kept.repetition_penalty) in {
        (None, None, None),
        (False, 1.0, 1.0),
    }


def test_flops_are_plausible(backend, small):
    """What torch counts is near 2 * N for each token, with N parameters outside of embeddings."""
    info = backend.load(small(n=1))

    out = backend.generate(backend.prompts())

    outside = info.parameters - 2 * 2048 * 128
    assert 0.5 < out.flops / (2 * outside * (12 + 6 - 1)) < 2


def test_flops_are_estimated_where_they_cannot_be_counted(backend, small, monkeypatch):
    """Without torch's count the operations are 2 * N for each token, and said to be."""

    def fail(*_args, **_named):
        raise RuntimeError("no counter")

    monkeypatch.setattr(flops_module, "FlopCounterMode", fail)

    info = backend.load(small(n=1))
    out = backend.generate(backend.prompts())

    assert info.flops_method == "parameter_estimate"
    assert out.flops == 2 * (info.parameters - 2048 * 128) * (12 + 6 - 1)


def test_flops_of_a_batch():
    """The first output token of a request is part of its prefill."""
    flops = TokenFlops(prefill=2.0, decode=3.0, method="flop_counter")

    assert flops.of([10, 20], [1, 5]) == 2 * 30 + 3 * 4
    assert flops.of([10], [0]) == 20


def test_text_prompts_are_the_lines(backend, small, saved_model, write_dataset):
    """One prompt a line, blank lines skipped, repeated until there are n."""
    path = write_dataset("\ufeffthe quick fox\r\n\n   \nlazy dog\n")
    backend.load(small(n=5, model=str(saved_model), dataset=path, max_output_tokens=8))

    fox, dog = (3, 4, 6), (9, 10)
    assert backend.prompts() == (fox, dog, fox, dog, fox)


def test_more_lines_than_prompts(backend, small, saved_model, write_dataset):
    """Only the first n lines are run, each cut to the longest input allowed."""
    path = write_dataset("the quick brown fox\nover\ndog\n")
    backend.load(
        small(n=2, model=str(saved_model), dataset=path, max_input_tokens=2, max_output_tokens=8)
    )

    assert backend.prompts() == ((3, 4), (8,))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty: write one prompt a line"),
        (b"\n  \n", "is empty: write one prompt a line"),
        (b"fine\n\xff\xfe\n", "is not UTF-8 text (byte 5)"),
    ],
)
def test_bad_dataset(backend, small, write_dataset, content, wanted):
    """A dataset without prompts is refused by its name."""
    path = write_dataset(content)

    with pytest.raises(BackendError) as caught:
        backend.load(small(dataset=path))

    assert str(caught.value).startswith(f"dataset {path!r} {wanted}")


@pytest.mark.parametrize("path", ["/llem/no/such/prompts.txt", "nul\0"])
def test_unreadable_dataset(backend, small, path):
    """A dataset that cannot be read is refused by its name."""
    with pytest.raises(BackendError) as caught:
        backend.load(small(dataset=path))

    assert str(caught.value).startswith(f"dataset {path!r} cannot be read (")


def test_prompt_without_tokens(backend, small, saved_model, write_dataset, monkeypatch):
    """A line that the tokenizer refuses, or makes nothing of, is named."""
    path = write_dataset("the fox\nunheard\n")
    config = small(model=str(saved_model), dataset=path)

    with pytest.raises(BackendError, match=r"cannot encode prompt 2: .*UNK.*; remove it"):
        backend.load(config)
    monkeypatch.setattr(pytorch, "_encoder", lambda _model: lambda _line: [])
    with pytest.raises(BackendError, match="cannot encode prompt 1: it has no token; remove it"):
        backend.load(config)


def test_prompt_too_long_for_the_model(backend, small, saved_model):
    """More tokens than the model has positions for are refused before they run."""
    dataset = SyntheticDataset(input_len=125, output_len=6)

    with pytest.raises(BackendError, match="takes 128 tokens, but prompt and output may have 131"):
        backend.load(small(model=str(saved_model), synthetic_dataset=dataset))


def test_foreign_tokenizer(backend, small, saved_model, write_dataset, monkeypatch):
    """Token numbers that the model lacks are refused before they reach a kernel."""
    monkeypatch.setattr(pytorch, "_encoder", lambda _model: lambda _line: [5, 64])

    with pytest.raises(BackendError, match="has 64 tokens, but its tokenizer gave number 64"):
        backend.load(small(model=str(saved_model), dataset=write_dataset("x\n")))


def test_passthrough_comes_last(backend, small):
    """Arguments that are passed through outrank the configuration."""
    backend.load(small(passthrough_kwargs={"max_new_tokens": 4}))

    assert backend.generate(backend.prompts()[:1]).output_tokens == (4,)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"no_such_argument": 1}, "no_such_argument"),
        ({"num_beams": "many"}, "passthrough_kwargs"),
        ({"streamer": 1, "inputs": 2}, "passthrough_kwargs may not set inputs, streamer"),
    ],
)
def test_bad_passthrough(backend, small, given, wanted):
    """An argument that generate refuses is refused when loading, and named."""
    with pytest.raises(BackendError) as caught:
        backend.load(small(passthrough_kwargs=given))

    text = str(caught.value)
    assert wanted in text
    assert "passthrough_kwargs" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("decoder", "wanted"),
    [
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"min_new_tokens": 200}, "decoder.min_new_tokens is 200, more than max_output_tokens"),
    ],
)
def test_bad_decoder(backend, small, write_dataset, decoder, wanted):
    """A decoder that cannot work is refused when loading."""
    config = small(dataset=write_dataset("x\n"), decoder=DecoderConfig(**decoder))

    with pytest.raises(BackendError) as caught:
        backend.load(config)

    assert wanted in str(caught.value)
    assert "decoder" in str(caught.value)


def test_beam_search_has_no_stream(backend, small):
    """Where tokens do not come one by one, their latencies are unknown."""
    backend.load(small(passthrough_kwargs={"num_beams": 2}))

    out = backend.generate(backend.prompts()[:2])

    assert out.output_tokens == (6, 6)
    assert out.latency_s > 0
    assert out.ttft_s is None
    assert out.itl_s == ()
    assert out.mode is MeasurementMode.PROPORTIONAL


def test_out_of_memory_while_running(backend, small, monkeypatch):
    """A batch that does not fit names the settings that would need less."""
    backend.load(small())

    def fail(*_args, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(backend._loaded.model, "generate", fail)

    with pytest.raises(BackendError, match=r"ran out of memory on cpu .*: lower batch_size"):
        backend.generate(backend.prompts())


def test_nothing_runs_without_a_model(backend, small):
    """Before loading and after closing there is nothing to run."""
    for _ in range(2):
        with pytest.raises(BackendError, match="no model is loaded"):
            backend.prompts()
        with pytest.raises(BackendError, match="no model is loaded"):
            backend.generate([(3, 4)])
        backend.synchronize()
        backend.close()
        backend.load(small())
        backend.close()
        backend.close()


def test_empty_batch(backend, small):
    """There is no batch of no prompts."""
    backend.load(small())

    with pytest.raises(BackendError, match="at least one prompt"):
        backend.generate([])


def test_failed_load_leaves_no_model(backend, small):
    """After a load that failed, the earlier model is not run in its stead."""
    backend.load(small())
    with pytest.raises(BackendError):
        backend.load(small(device="nowhere"))

    with pytest.raises(BackendError, match="no model is loaded"):
        backend.prompts()


def test_memory_of_a_gpu(backend, small, monkeypatch):
    """Memory of a GPU is in MiB, work on it is waited for, and closing gives it back."""
    backend.load(small())
    called = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: called.append(str(device)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty_cache"))
    backend._loaded = attrs.evolve(backend._loaded, device=torch.device("cuda:1"))

    peak = backend.peak_memory_mb()
    backend.synchronize()
    backend.close()

    assert peak == 3.0
    assert called == ["cuda:1", "empty_cache"]


@pytest.mark.parametrize(
    ("name", "uuid"),
    [("NVIDIA H200", "GPU-c0ffee"), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-c0ffee")],
)
def test_a_mig_instance_is_told_from_a_gpu(name, uuid):
    """The driver knows neither by the name of the other."""
    assert pytorch._uuid_of(SimpleNamespace(name=name, uuid="c0ffee")) == uuid


def test_device_work_is_waited_for(backend, small, monkeypatch):
    """Nothing is left running on the device at either edge of a batch."""
    backend.load(small())
    order = []
    original = pytorch._generate
    monkeypatch.setattr(backend, "synchronize", lambda: order.append("synchronize"))
    monkeypatch.setattr(
        pytorch, "_generate", lambda *a, **k: (order.append("generate"), original(*a, **k))[1]
    )

    backend.generate(backend.prompts())

    assert order == ["synchronize", "generate", "synchronize"]


@pytest.mark.gpu
def test_gpu(backend):
    """On a GPU the memory and the identity of the device are known."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    info = backend.load(ExperimentConfig(n=4, batch_size=2))

    out = backend.generate(backend.prompts()[:2])

    assert info.device == "cuda:0"
    assert info.device_uuids == (f"GPU-{torch.cuda.get_device_properties(0).uuid}",)
    assert 0 < info.model_memory_mb <= backend.peak_memory_mb() < info.total_memory_mb
    assert out.output_tokens == (32, 32)
    assert 0 < out.ttft_s + sum(out.itl_s) <= out.latency_s
    backend.close()
    assert torch.cuda.memory_allocated() < 2**20
