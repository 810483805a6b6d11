"""Real runs of many ranks, on a machine without GPUs: a fake driver stands for those."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

RANK = Path(__file__).with_name("rank.py")


@attrs.frozen
class Ended:
    """
    What a launched run came to.

    Attributes:
        status: Exit status of the launcher.
        said: What each rank said at its end, by rank.
        out: What all of them printed.
        seconds: How long it took.
    """

    status: int
    said: dict[int, str]
    out: str
    seconds: float


@pytest.fixture
def environment(tmp_path: Path, fake_library: Path) -> dict[str, str]:
    """That of the ranks: with eight GPUs of the fake driver, each of another power."""
    description = tmp_path / "driver.txt"
    lines = ["count 8", f"epoch_s {time.monotonic()!r}"]
    lines += [f"gpu{i}.uuid GPU-{i}\ngpu{i}.power_w {100 + 10 * i}" for i in range(8)]
    description.write_text("\n".join(lines) + "\n")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {
        **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
        "LD_LIBRARY_PATH": str(fake_library.parent),
        "FAKE_NVML": str(description),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@attrs.define
class Launcher:
    """Starts ranks with torchrun."""

    folder: Path
    environment: dict[str, str]

    def _write(self, plan: dict[str, Any], name: str) -> Path:
        """Leave *plan* for the ranks to read."""
        said = self.folder / "said"
        said.mkdir(exist_ok=True)
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps({"said": str(said), "root": str(self.folder / "root")} | plan))
        return file

    def start(
        self,
        count: int,
        plan: dict[str, Any],
        *words: str,
        name: str = "plan",
        within: Sequence[str] = (),
    ) -> "subprocess.Popen[str]":
        """Start *count* ranks that follow *plan*, with *words* for the launcher, *within* it."""
        file = self._write(plan, name)
        where = list(words) or ["--standalone"]
        launcher = [*within, sys.executable, "-m", "torch.distributed.run", *where]
        return subprocess.Popen(
            [*launcher, "--nproc-per-node", str(count), str(RANK), str(file)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def apart(self, count: int, **plan: Any) -> list[Ended]:
        """What *count* ranks come to that nothing but themselves looks after."""
        file = self._write(plan, "plan")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        ranks = [
            subprocess.Popen(
                [sys.executable, str(RANK), str(file)],
                env={**self.environment, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(count)
        ]
        hanging = {rank for rank, _, how in plan.get("faults", ()) if how == "hang"}
        ends = {rank: self.end(ranks[rank]) for rank in range(count) if rank not in hanging}
        for rank in hanging:
            ranks[rank].kill()
            ends[rank] = self.end(ranks[rank])
        return [ends[rank] for rank in range(count)]

    def wait_until(self, place: str, *, ranks: int, seconds: float = 120) -> None:
        """Wait for as many *ranks* to come to *place*."""
        deadline = time.monotonic() + seconds
        while len([*(self.folder / "said").glob(f"*.{place}")]) < ranks:
            assert time.monotonic() < deadline, f"{ranks} ranks did not come to {place}"
            time.sleep(0.05)

    def end(self, process: "subprocess.Popen[str]", *, seconds: float = 120) -> Ended:
        """Wait for what was started."""
        began = time.monotonic()
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        said = {int(f.stem): f.read_text() for f in (self.folder / "said").glob("*.txt")}
        return Ended(process.returncode, said, out, time.monotonic() - began)

    def run(self, count: int, **plan: Any) -> Ended:
        """Start *count* ranks, and wait for them."""
        return self.end(self.start(count, plan))


@pytest.fixture
def launcher(tmp_path: Path, environment: dict[str, str]) -> Launcher:
    pytest.importorskip("torch")
    return Launcher(tmp_path, environment)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the ranks keep their results."""
    return tmp_path / "root"
