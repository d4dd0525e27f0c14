"""Lines of progress at a pace that a reader can follow: what is quick says nothing."""

import sys
import time
from collections.abc import Callable

EVERY_S = 2.0


def to_stderr(line: str) -> None:
    """A line apart from what a command answers."""
    print(line, file=sys.stderr, flush=True)


class Paced:
    """Hands a line on where the last one, or the beginning, is `EVERY_S` seconds ago; drops the others."""

    def __init__(self, say: Callable[[str], None] = to_stderr) -> None:
        self.say, self.last = say, time.monotonic()

    def __call__(self, line: str) -> None:
        """Take one line."""
        if (now := time.monotonic()) - self.last >= EVERY_S:
            self.say(line)
            self.last = now
