"""Has processes do what a scene says, and be killed or stopped at one call to the system."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dying

import llem

PATHS = [*map(str, (Path(dying.__file__).parent, Path(llem.__file__).parents[1]))]


class Dying:
    """A warm process that has its children die where it is told."""

    def __init__(self, scene, kind, folder):
        path = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, dying.__file__, scene, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        self.scene, self.folder, self.count = dying.scene_of(scene), folder, 0
        self.template = folder / "template"
        self.scene.prepare(self.template)

    def fresh_root(self):
        """A root as it is before the scene."""
        root = self.folder / f"root{self.count}"
        self.count += 1
        if self.template.exists():
            shutil.copytree(self.template, root)
        return root

    def order(self, **order):
        """How a child that obeys *order* ends: killed, stopped, failed or done."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def each_call(self, signal):
        """Each root where a child was sent *signal*, before or after each call in turn."""
        for after in (False, True):
            at, end = 0, "killed"
            while end in {"killed", "stopped"}:
                root = self.fresh_root()
                end = self.order(root=str(root), at=at, after=after, signal=signal)
                yield root, end
                shutil.rmtree(root)
                at += 1
