"""A record to its document and back, beside the same schema in pydantic v2 and in msgspec."""

import msgspec
import orjson
import pytest
from peers import msgspec_struct, pydantic_model
from sample import sample_result

from llem.codec import from_json, to_json
from llem.domain.result import ExperimentResult

LATENCIES = [0, 100, 10_000]
ROUNDS = {0: 300, 100: 300, 10_000: 30}
PROCESSES = 8

MODEL = pydantic_model(ExperimentResult)
STRUCT = msgspec_struct(ExperimentResult)


@pytest.mark.parametrize("latencies", LATENCIES)
def test_to_json(compare, latencies):
    """`to_json` beside the others' dumps, indented where they can."""
    result = sample_result(PROCESSES, latencies)
    document = to_json(result)
    plain = orjson.loads(document)
    model, struct = MODEL.model_validate_json(document), msgspec.json.decode(document, type=STRUCT)
    assert MODEL.model_validate_json(model.model_dump_json()) == model
    assert from_json(to_json(result)) == result

    compare(
        {
            "llem": lambda: to_json(result),
            "pydantic": lambda: model.model_dump_json(indent=2),
            "msgspec": lambda: msgspec.json.encode(struct),
            "orjson alone": lambda: orjson.dumps(plain, option=orjson.OPT_INDENT_2),
        },
        reference="pydantic",
        rounds=ROUNDS[latencies],
    )


@pytest.mark.parametrize("latencies", LATENCIES)
def test_from_json(compare, latencies):
    """`from_json`, every check kept, beside the others' strict loads."""
    result = sample_result(PROCESSES, latencies)
    document = to_json(result)
    decoder = msgspec.json.Decoder(STRUCT)
    assert from_json(document) == result

    compare(
        {
            "llem": lambda: from_json(document),
            "pydantic": lambda: MODEL.model_validate_json(document),
            "msgspec": lambda: decoder.decode(document),
            "orjson alone": lambda: orjson.loads(document),
        },
        reference="pydantic",
        rounds=ROUNDS[latencies],
    )
