"""Sampling 8 devices at 100 Hz while the main thread runs Python, beside a sampling thread."""

import os
import random
import shutil
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pynvml
import pytest

from llem.measure.sampler import Sampler

DEVICES, PERIOD_S, SECONDS, ROUNDS = 8, 0.01, 2.0, 5
PAIRS, PIECE_S = 150, 0.1
"""A virtual machine's speed moves within seconds, so that only short neighbours compare."""

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
        self.rows, self.ending, self.going = [], threading.Event(), threading.Event()
        self.going.set()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        deadline = time.monotonic()
        while not self.ending.is_set():
            self.going.wait()
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

    def pause(self):
        self.going.clear()

    def resume(self):
        self.going.set()

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
        self.others = children()

    def start(self):
        self.sampler.start()
        (self.child,) = children() - self.others

    def pause(self):
        os.kill(self.child, signal.SIGSTOP)

    def resume(self):
        os.kill(self.child, signal.SIGCONT)

    def stop(self):
        return len(self.sampler.stop().times_s)


def children():
    """Processes that this one started."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def samples_taken(sampler):
    """Share of the samples asked for while the main thread is busy."""
    sampler.start()
    began = time.monotonic()
    work(SECONDS)
    passed = time.monotonic() - began
    return sampler.stop() / (passed / PERIOD_S)


def throughput_left(sampler):
    """The main thread's rounds while it samples, as shares of those while it pauses."""
    shares = []
    sampler.start()
    for _ in range(PAIRS):
        rounds = {}
        for turn in random.sample([sampler.resume, sampler.pause], 2):
            turn()
            time.sleep(PERIOD_S / 2)
            rounds[turn.__name__] = work(PIECE_S)
        shares.append(rounds["resume"] / rounds["pause"])
    sampler.resume()
    sampler.stop()
    return shares


def test_rate_and_cost(library, capsys):
    """Samples of those asked for, and what is left of the main thread's throughput, in turn."""
    make = {"llem": lambda: SamplingProcess(library), "thread": SamplingThread}
    taken, left = ({name: [] for name in make} for _ in range(2))
    for _ in range(ROUNDS):
        for name, sampler in make.items():
            taken[name].append(samples_taken(sampler()))
    for name, sampler in make.items():
        left[name] += throughput_left(sampler())
    with capsys.disabled():
        print(f"\n8 devices at {1 / PERIOD_S:.0f} Hz, main thread in pure Python, medians:")
        for name in make:
            share, kept = statistics.median(taken[name]), statistics.median(left[name])
            print(f"  {name:8} {share:6.1%} of the samples, {kept:6.1%} of the throughput")
