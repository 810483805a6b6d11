"""Models to run: the built-in one, and one saved in a folder with its tokenizer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llem.backends import open_backend
from llem.domain.config import ExperimentConfig, SyntheticDataset
from llem.protocols import InferenceBackend

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog")


@pytest.fixture
def backend() -> Iterator[InferenceBackend]:
    """A backend that is closed afterwards."""
    pytest.importorskip("torch")
    opened = open_backend("pytorch")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` leaves it: weights, configuration and tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "llama"
    torch.manual_seed(7)
    architecture = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(architecture).save_pretrained(folder)
    _tokenizer(transformers).save_pretrained(folder)
    return folder


def _tokenizer(transformers):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {w: i for i, w in enumerate(WORDS, start=3)}
    model = tokenizers.models.WordLevel(vocabulary)
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def small() -> Callable[..., ExperimentConfig]:
    """Makes configurations of few short prompts in fp32, on the CPU unless told otherwise."""

    def make(**changes) -> ExperimentConfig:
        dataset = SyntheticDataset(input_len=12, output_len=6)
        defaults = {"n": 3, "synthetic_dataset": dataset, "precision": "fp32", "device": "cpu"}
        return ExperimentConfig(**{**defaults, **changes})

    return make
