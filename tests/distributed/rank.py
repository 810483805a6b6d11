"""
One rank of a run, as torchrun starts it. What it does is told by a JSON file, its only argument.

Its engine is the built-in model, or one that sleeps; the GPUs that it says it runs on are those of
the fake driver. At a stage of the run it may be made to misbehave.
"""

import itertools
import json
import os
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import torch

import llem
from llem.distributed import board, ranks, signs
from llem.domain.config import (
    BaselineConfig,
    EnergyConfig,
    ExperimentConfig,
    SyntheticDataset,
    WarmupConfig,
)
from llem.measure import SystemClock
from llem.protocols import BackendInfo, BatchOutput, InferenceBackend

PLAN: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
RANK = int(os.environ["RANK"])

CONFIG = ExperimentConfig(
    n=PLAN.get("n", 16),
    device="cpu",
    synthetic_dataset=SyntheticDataset(input_len=8, output_len=4),
    energy=EnergyConfig(backend="nvml" if {"gpus", "bare"} & PLAN.keys() else None),
    baseline=BaselineConfig(
        enabled="baseline_s" in PLAN, duration_seconds=PLAN.get("baseline_s", 1)
    ),
    warmup=WarmupConfig(n_warmup=1, thermal_floor_seconds=0.0),
    model=PLAN.get("models", {}).get(str(RANK), "builtin:tiny-llama"),
)


class Sleeping(InferenceBackend):
    """Takes 20 ms for a request, and needs no model."""

    @property
    def name(self) -> str:
        return "pytorch"

    def load(self, config: ExperimentConfig, /) -> BackendInfo:
        self._prompts = [(index, 2, 3) for index in range(config.n)]
        return BackendInfo(device="cpu", device_name="none")

    def prompts(self) -> Any:
        return self._prompts

    def generate(self, batch: Any, /) -> BatchOutput:
        time.sleep(0.02 * (1 + PLAN.get("slower", {}).get(str(RANK), 0)))
        return BatchOutput(
            input_tokens=tuple(map(len, batch)),
            output_tokens=(4,) * len(batch),
            latency_s=0.02,
            ttft_s=0.005,
            ended_s=time.monotonic(),
        )

    def synchronize(self) -> None: ...

    def peak_memory_mb(self) -> None: ...

    def close(self) -> None: ...


def engine() -> InferenceBackend:
    """What runs the prompts, said to run on the GPUs of this rank where it has any."""
    if PLAN.get("model"):
        from llem.backends import open_backend

        chosen = open_backend("pytorch")
    else:
        chosen = Sleeping()
    if "gpus" in PLAN:
        load, gpus = chosen.load, tuple(PLAN["gpus"][str(RANK)])
        chosen.load = lambda config: attrs.evolve(load(config), device_uuids=gpus)  # type: ignore[method-assign]
    return chosen


class WrongClock(SystemClock):
    """A clock of a machine that is set wrong."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=PLAN.get("wrong_by_s", {}).get(str(RANK), 0))


def wait_for_all() -> None:
    """Until all have met: the launcher ends one that is still being started before it can say."""
    while len([*Path(PLAN["said"]).glob("*.before join")]) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)


def misbehave(place: str) -> None:
    """Leave word that this rank came there, and do what the plan says that it does."""
    Path(PLAN["said"], f"{RANK}.{place}".replace("/", " ")).touch()
    is_again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    for rank, where, how in () if is_again else PLAN.get("faults", ()):
        if (rank, where) == (RANK, place):
            wait_for_all()
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            if how == "hang":
                time.sleep(600)
            if how == "raise":
                raise RuntimeError("the engine broke")
            time.sleep(0.5)


def hook() -> None:
    """Have this rank follow its plan wherever ranks meet, and at each prompt."""
    exchange, generate, finish = board.Board.exchange, Sleeping.generate, ranks.finish
    tell, wait_for, part = board.Board.tell, board.Board.wait_for, board.Board.part

    def exchanging(self: board.Board, stage: str, value: Any, **how: Any) -> Any:
        misbehave(f"before {stage}")
        told = exchange(self, stage, value, **how)
        misbehave(f"after {stage}")
        return told

    def telling(self: board.Board, key: str, value: Any = None) -> None:
        misbehave(f"before {key}")
        tell(self, key, value)
        misbehave(f"after {key}")

    def waiting(self: board.Board, key: str, *about: Any, **how: Any) -> Any:
        misbehave(f"before {key}")
        told = wait_for(self, key, *about, **how)
        misbehave(f"after {key}")
        return told

    def parting(self: board.Board, **how: Any) -> None:
        misbehave("before part")
        part(self, **how)

    calls = itertools.count()

    def generating(self: Sleeping, batch: Any, /) -> BatchOutput:
        is_run = next(calls) > 0
        misbehave("run" if is_run else "warmup")
        if is_run:
            with Path(PLAN["said"], f"{RANK}.prompts").open("a", encoding="ascii") as file:
                file.writelines(f"{prompt[0]}\n" for prompt in batch)
        return generate(self, batch)

    def finishing(*about: Any, **how: Any) -> Any:
        misbehave("before finish")
        return finish(*about, **how)

    ranks.finish = finishing
    signs.LOOK_S, signs.SILENT_S = 0.5, PLAN.get("silent_s", signs.SILENT_S)
    board.Board.exchange = exchanging  # type: ignore[method-assign]
    board.Board.tell = telling  # type: ignore[method-assign]
    board.Board.wait_for = waiting  # type: ignore[method-assign]
    board.Board.part = parting  # type: ignore[method-assign]
    Sleeping.generate = generating  # type: ignore[method-assign]


def measure(peers: llem.Ranks) -> None:
    """Once, as the plan says."""
    if "bare" in PLAN:
        with llem.Experiment(CONFIG, peers=peers) as run:
            time.sleep(0.2)
            run.record(input_tokens=3, output_tokens=4, latency_s=0.1, ttft_s=0.05)
    else:
        llem.run_experiment(CONFIG, backend=engine(), peers=peers, clock=WrongClock())


def main() -> None:
    """Run, and keep; then say what was kept."""
    root = Path(PLAN["roots"][RANK] if "roots" in PLAN else PLAN["root"])
    hook()
    if "words" in PLAN:
        from llem.cli import status_of

        raise SystemExit(status_of(["run", "--root", str(root), *PLAN["words"]]))
    if PLAN.get("own_group"):
        torch.distributed.init_process_group("gloo")
    kept = None
    try:
        with llem.Ranks(root, timeout_s=PLAN.get("timeout_s", 60)) as peers:
            if PLAN.get("group_inside"):
                torch.distributed.init_process_group("gloo")
            for which in range(len(peers.kept_before), PLAN.get("experiments", 1)):
                misbehave(f"before experiment {which}")
                measure(peers)
                misbehave("before keep")
                kept = peers.keep() if RANK not in PLAN.get("keep_not", ()) else None
    except (llem.LlemError, KeyboardInterrupt, RuntimeError) as error:
        told = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        Path(PLAN["said"], f"{RANK}.txt").write_text(told, "utf-8")
        raise SystemExit(1) from None
    if torch.distributed.is_initialized():
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        assert total.item() == int(os.environ["WORLD_SIZE"])
        torch.distributed.destroy_process_group()
    Path(PLAN["said"], f"{RANK}.txt").write_text("kept" if kept else "done", "utf-8")


if __name__ == "__main__":
    main()
