"""The command line in a process of its own, as a user runs it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "trl", "peft")
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
from flows.cli import main
main()
"""


class Done(NamedTuple):
    """How a command ended, what it printed, and which of the heavy libraries its process had loaded by then."""

    code: int
    out: str
    err: str
    loaded: list[str]


class Command:
    """`earshot ARGUMENTS` on a home, with a Prefect server of its own, started and not waited for."""

    def __init__(self, home: Path, *arguments: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "OMP_"))}
        self.out, self.err = (tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdout=self.out, stderr=self.err, text=True, cwd=home.parent,
            env={**kept, "EARSHOT_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip

    def done(self) -> Done:
        """What it came to, when it has ended."""
        code = self.process.wait()
        for file in (self.out, self.err):
            file.seek(0)
        said, _, loaded = self.err.read().rpartition("loaded:")
        return Done(code, self.out.read(), said, loaded.split())

    def stop(self) -> None:
        """End it where nobody waits for it any more."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def earshot(home: Path, *arguments: str) -> Done:
    """Run a command to its end."""
    return Command(home, *arguments).done()
