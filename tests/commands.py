"""The command line in a process of its own, as a user runs it."""

import os
import subprocess
import sys
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


def earshot(home: Path, *arguments: str) -> Done:
    """Run `earshot ARGUMENTS` on a home, with a Prefect server of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "EARSHOT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=home.parent,
    )
    said, _, loaded = done.stderr.rpartition("loaded:")
    return Done(done.returncode, done.stdout, said, loaded.split())
