"""
What a disk may hold after a power cut, by recorded calls, as ALICE works it out.

What was not synced may have reached the disk or not, each for itself and in any order:

- bytes of a file without an fsync of that file: none of them, half of them, zeros in their place;
- a name without an fsync of its folder: there, or as it was before;
- a rename: both of its names or none. It is durable once the folder moved into is synced. With the
  folder moved out of alone synced the old name is gone, and the new one may not have come.
"""

import itertools
import math
import random
from collections import defaultdict
from pathlib import Path

import attrs

NO, YES, LOST, HALF, ZEROS = "no", "yes", "lost", "half", "zeros"


@attrs.frozen
class Change:
    """
    One change of what the disk holds.

    Attributes:
        names: What becomes of names: folder, name, and what it stands for then, or None.
        file: The file that was written. None: names were changed.
        content: What was written.
    """

    names: tuple[tuple[int, str, int | None], ...] = ()
    file: int | None = None
    content: bytes = b""

    def outcomes(self, synced):
        """What may have become of it, where *synced* were synced later on."""
        if self.file is not None:
            return (YES,) if self.file in synced else (NO, HALF, ZEROS, YES)
        if self.names[-1][0] in synced:
            return (YES,)
        return (LOST, YES) if self.names[0][0] in synced else (NO, YES)

    def names_after(self, outcome):
        """The names that are changed where *outcome* is what became of it."""
        return {YES: self.names, LOST: self.names[:1]}.get(outcome, ())

    def content_after(self, outcome):
        """The bytes that are there where *outcome* is what became of it."""
        half = len(self.content) // 2
        return {YES: self.content, HALF: self.content[:half], ZEROS: bytes(len(self.content))}.get(
            outcome, b""
        )


class Disk:
    """The files and folders under *base*, all of them durable, and what *log* makes of them."""

    def __init__(self, base):
        self.base, self.numbers = str(base), itertools.count(1)
        self.now, self.content, self.events, self.open = {}, {}, [], {}
        for path in sorted(base.rglob("*")):
            number = self.now[self._place(str(path))] = next(self.numbers)
            if path.is_file():
                self.content[number] = path.read_bytes()
        self.durable = dict(self.now)

    def follow(self, log):
        """Take in the recorded calls *log*."""
        for name, args, out in log:
            getattr(self, f"_{name}", lambda *_: None)(out, *args)

    def states(self, most, seed=0):
        """
        Each tree that the disk may hold, and whether all calls had returned.

        Args:
            most: Most outcomes that are looked at after a call; of more a sample is taken.
            seed: Seed of that sample.
        """
        seen = set()
        for count in range(len(self.events) + 1):
            for outcome in self._outcomes(self.events[:count], most, seed):
                state = self._tree(outcome), count == len(self.events)
                if state not in seen:
                    seen.add(state)
                    yield state

    def _place(self, path):
        """The folder and the name that *path* stands for."""
        folder, *names = 0, *Path(path).relative_to(self.base).parts
        for name in names[:-1]:
            folder = self.now[folder, name]
        return folder, names[-1]

    def _number(self, path):
        return 0 if path == self.base else self.now[self._place(path)]

    def _change(self, *names):
        self.events.append(Change(names))
        for folder, name, number in names:
            self.now[folder, name] = number

    def _mkdir(self, _, path):
        self._change((*self._place(path), next(self.numbers)))

    def _open(self, fd, path, flags, *mode):
        if mode:
            self._mkdir(None, path)
            self.content[self._number(path)] = b""
        self.open[fd] = self._number(path)

    def _write(self, size, fd, content):
        self.events.append(Change(file=self.open[fd], content=bytes(content[:size])))

    def _fsync(self, _, fd):
        self.events.append(self.open[fd])

    def _rename(self, _, source, target):
        number = self._number(source)
        self._change((*self._place(source), None), (*self._place(target), number))

    def _link(self, _, source, target):
        self._change((*self._place(target), self._number(source)))

    def _unlink(self, _, path):
        self._change((*self._place(path), None))

    _rmdir = _unlink

    def _outcomes(self, events, most, seed):
        """What may have become of each change of *events*."""
        synced, possible = set(), []
        for event in reversed(events):
            if isinstance(event, Change):
                possible.append([(event, outcome) for outcome in event.outcomes(synced)])
            else:
                synced.add(event)
        possible.reverse()
        if math.prod(map(len, possible)) <= most:
            return itertools.product(*possible)
        chance = random.Random(seed)
        return [[chance.choice(some) for some in possible] for _ in range(most)]

    def _tree(self, outcomes):
        names, content = dict(self.durable), dict(self.content)
        for change, outcome in outcomes:
            names |= {
                (folder, name): number for folder, name, number in change.names_after(outcome)
            }
            if change.file is not None:
                content[change.file] += change.content_after(outcome)
        inside = defaultdict(list)
        for (folder, name), number in names.items():
            if number is not None:
                inside[folder].append((name, number))
        return frozenset(_walk(0, "", inside, content))


def _walk(folder, path, inside, content):
    """Path and content of all that is reached from *folder*; the content of a folder is None."""
    for name, number in inside[folder]:
        yield f"{path}{name}", content.get(number)
        yield from _walk(number, f"{path}{name}/", inside, content)


def build(tree, base):
    """Make *tree* under *base*."""
    for path, content in sorted(tree, key=lambda entry: entry[0]):
        if content is None:
            (base / path).mkdir()
        else:
            (base / path).write_bytes(content)
