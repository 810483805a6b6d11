"""
A process whose children do what a scene says, and die or stop at one call to the system.

Run with the name of a scene, and of the class that is the `os`. It is warm: a child is forked from
it, rather than to start Python anew for each call. Each line that it reads is an order, in JSON,
and is answered by one word.
"""

import json
import os
import signal
import sys
import traceback

import pytest
import seam
from scenes import SCENES, put
from spooling import SPOOL_SCENES

from llem.store import MemoryStore


def signalling(number, *, after):
    """Sends this process signal *number*, before the call or after it."""

    def do(real, *args):
        if not after:
            os.kill(os.getpid(), number)
        try:
            return real(*args)
        finally:
            if after:
                os.kill(os.getpid(), number)

    return do


def scene_of(name):
    """The scene that is called *name*."""
    return (SCENES | SPOOL_SCENES)[name]


def act(scene, kind, order):
    """Do what the scene says, in this process."""
    do = signalling(signal.Signals[order["signal"]], after=order["after"])
    kind(order["at"], do).install(pytest.MonkeyPatch())
    scene.act(order["root"])


def child(scene, kind, order):
    """Start a process that does what the scene says; gives its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        act(scene, kind, order)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def ending(status):
    """What became of a child, in a word."""
    if os.WIFSTOPPED(status):
        return "stopped"
    if os.WIFSIGNALED(status):
        return "killed"
    return "failed" if os.WEXITSTATUS(status) else "done"


def main(scene, kind):
    """Obey until there are no more orders."""
    put(MemoryStore(), 0)  # so that no child has to load what a first put does
    pid = 0
    for line in sys.stdin:
        order = json.loads(line)
        if "signal" in order:
            pid = child(scene_of(scene), getattr(seam, kind), order)
        else:
            os.kill(pid, signal.SIGCONT)
        sys.stdout.write(ending(os.waitpid(pid, os.WUNTRACED)[1]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
