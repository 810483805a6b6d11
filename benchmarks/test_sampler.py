"""Sampling 8 devices at 100 Hz while the main thread runs Python, beside a sampling thread."""

import shutil
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pynvml
import pytest

from llem.measure.sampler import Sampler

DEVICES, PERIOD_S, SECONDS, ROUNDS = 8, 0.01, 2.0, 7
CALL_MS = 0.1
FAKE = Path(__file__).parents[1] / "tests" / "measure" / "fake_nvml.c"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A driver of eight GPUs, for a machine that has none."""
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler")
    made = tmp_path / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", made, FAKE, "-lm"], check=True)
    description = tmp_path / "driver.txt"
    # A call of a real driver takes this long, in which a thread loses the interpreter's lock.
    delays = "".join(f"gpu{i}.delay_ms {CALL_MS}\n" for i in range(DEVICES))
    description.write_text(f"count {DEVICES}\n{delays}")
    monkeypatch.setenv("FAKE_NVML", str(description))
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", lambda _: __import__("ctypes").CDLL(str(made)))
    return made


def work(seconds):
    """How often pure Python goes round in *seconds*."""
    rounds, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(1000):
            rounds += 1
    return rounds


class SamplingThread:
    """What one writes without a second thought: pynvml in a thread, one tick after another."""

    def __init__(self):
        pynvml.nvmlInit()
        self.handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(DEVICES)]
        self.rows, self.ending = [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        deadline = time.monotonic()
        while not self.ending.is_set():
            now = time.monotonic()
            for handle in self.handles:
                self.rows.append(
                    (
                        now,
                        pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                        pynvml.nvmlDeviceGetTemperature(handle, 0),
                    )
                )
            deadline += PERIOD_S
            time.sleep(max(deadline - time.monotonic(), 0))

    def start(self):
        self.thread.start()

    def stop(self):
        self.ending.set()
        self.thread.join()
        pynvml.nvmlShutdown()
        return len(self.rows) // DEVICES


class SamplingProcess:
    """llem's."""

    def __init__(self, library):
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(DEVICES)]
        devices = [f"{pynvml.nvmlDeviceGetUUID(handle)},instant,1" for handle in handles]
        pynvml.nvmlShutdown()
        self.sampler = Sampler("nvml", [str(library), *devices], devices=DEVICES, period_s=PERIOD_S)

    def start(self):
        self.sampler.start()

    def stop(self):
        return len(self.sampler.stop().times_s)


def test_rate_and_cost(library, capsys):
    """Samples of those asked for, and what is left of the main thread's throughput, in turn."""
    shares = {"llem": [], "thread": []}
    throughput = {"llem": [], "thread": [], "alone": []}
    for _ in range(ROUNDS):
        before = work(SECONDS)
        for name, taken in shares.items():
            sampler = SamplingProcess(library) if name == "llem" else SamplingThread()
            sampler.start()
            began = time.monotonic()
            done = work(SECONDS)
            passed = time.monotonic() - began
            taken.append(sampler.stop() / (passed / PERIOD_S))
            after = work(SECONDS)
            throughput[name].append(2 * done / (before + after))
            throughput["alone"].append(after / before)
            before = after
    with capsys.disabled():
        print(f"\n8 devices at {1 / PERIOD_S:.0f} Hz, main thread in pure Python, medians:")
        for name, left in throughput.items():
            taken = shares.get(name)
            share = f"{statistics.median(taken):.1%} of the samples" if taken else ""
            print(f"  {name:12} {share:24} {statistics.median(left):.1%} of the throughput")
