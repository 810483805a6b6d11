"""``llem env``: what this machine can measure."""

import attrs

from llem.cli.output import AsJson, print_json, print_lines
from llem.codec import to_mapping
from llem.domain.environment import EnvironmentSnapshot
from llem.measure import Capability, capabilities, snapshot
from llem.report.summary import Line, cuda, driver


def env_verb(*, as_json: AsJson = False) -> int:
    """Say what this machine can measure, and what would stop it."""
    found, environment = capabilities(), snapshot()
    if as_json:
        print_json(
            {
                "capabilities": [attrs.asdict(capability) for capability in found],
                "environment": to_mapping(environment),
            }
        )
    else:
        print_lines([*map(_capability, found), *_machine(environment)])
    return 0


def _capability(capability: Capability) -> Line:
    answer = "yes" if capability.available else "no"
    return Line(capability.name, f"{answer}: {capability.detail}")


def _machine(environment: EnvironmentSnapshot) -> list[Line]:
    hardware = environment.hardware
    container = hardware.container
    return [
        Line("CPU", hardware.cpu.model or hardware.cpu.platform),
        Line("governor", hardware.cpu.governor or "unknown"),
        *(Line("GPU", gpu.name) for gpu in hardware.gpus),
        Line("driver", driver(environment) or "none found"),
        Line("CUDA", cuda(environment) or "unknown"),
        Line("container", (container.runtime or "yes") if container.detected else "no"),
        Line("Python", environment.python_version),
        Line("llem", environment.tool_version),
    ]
