"""The config hash: one short name for one configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llem.codec.converter import converter
from llem.domain.config import ExperimentConfig
from llem.domain.freeform import JsonObject
from llem.errors import ConfigError


def measurement_config_hash(config: ExperimentConfig | Mapping[str, Any]) -> str:
    """
    The first 16 hex digits of the SHA-256 of the canonical JSON of *config*.

    That is what ``json.dumps(config, sort_keys=True)`` of the standard library writes: keys sorted,
    separators ``", "`` and ``": "``, ASCII escapes, and a float where the field is a float.

    Args:
        config: A configuration, or the mapping that a record keeps as ``effective_config``; both
            give the same hash.

    Raises:
        ConfigError: The mapping holds what JSON cannot.
    """
    if isinstance(config, ExperimentConfig):
        plain = converter().unstructure(config)
    else:
        if not isinstance(config, Mapping):
            raise ConfigError(f"config must be a mapping, got {type(config).__name__}")
        try:
            plain = JsonObject(config).plain
        except ValueError as fault:
            raise ConfigError(f"config{fault}") from None
    canonical = json.dumps(plain, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]
