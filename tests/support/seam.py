"""The seam between the store and the system: the `os` that its writing modules use."""

import importlib
import os
import re

MODULES = [
    importlib.import_module(f"llem.store.{name}")
    for name in ("durable", "commit", "staging", "removal", "repair", "spool")
]

CALLS = ("mkdir", "open", "write", "fsync", "close", "link", "rename", "unlink", "rmdir")
"""The calls that change what a disk holds, and those that could fail beside them."""


class WatchedOs:
    """
    The `os` of the store, which records each call, and does as told at one of them.

    Args:
        at: Number of the call at which *do* is called with the real one and its arguments.
        do: What is done there.
        left_out: Says of a call, by name and path, that it is not to take place at all.
    """

    def __init__(self, at=None, do=None, left_out=lambda name, path: False):
        self.calls, self.log, self.paths = [], [], {}
        self.at, self.do, self.left_out = at, do, left_out

    def __getattr__(self, name):
        if name not in CALLS:
            return getattr(os, name)
        real = self.real(name)

        def call(*args):
            here = len(self.calls)
            path = args[0] if isinstance(args[0], str) else self.paths.get(args[0], "")
            self.calls.append((name, path))
            if self.left_out(name, path):
                return len(args[1]) if name == "write" else None
            out = self.do(real, *args) if here == self.at else real(*args)
            self.log.append((name, args, out))
            if name == "open":
                self.paths[out] = path
            return out

        return call

    def real(self, name):
        """What takes place where *name* is called."""
        return getattr(os, name)

    def install(self, monkeypatch):
        """Be the `os` of every writing module until *monkeypatch* undoes it."""
        for module in MODULES:
            monkeypatch.setattr(module, "os", self)
        return self


class OneCall:
    """
    Tells one step of a protocol from the others, so that it can be left out.

    Args:
        name: What is called.
        place: What its path has in it, a regular expression.
        number: Which of these calls it is, from 0 on. None: each of them.
    """

    def __init__(self, name, place="", number=None):
        self.name, self.place, self.number, self.met = name, re.compile(place), number, 0

    def __call__(self, name, path):
        if name != self.name or not self.place.search(path):
            return False
        self.met += 1
        return self.number is None or self.number == self.met - 1


class FileByFileOs(WatchedOs):
    """Leaves out the rename of a folder as a whole: its files are moved one by one."""

    def real(self, name):
        def rename(source, target):
            if not os.path.isdir(source):
                os.rename(source, target)
                return
            os.makedirs(target, exist_ok=True)
            for file in sorted(os.listdir(source)):
                self.rename(os.path.join(source, file), os.path.join(target, file))
            self.rmdir(source)

        return rename if name == "rename" else super().real(name)


def failing(number, *, after=False):
    """Raises OSError *number* instead of the call; *after*: once it took place."""

    def do(real, *args):
        if after or real is os.close:
            real(*args)
        raise OSError(number, os.strerror(number))

    return do
