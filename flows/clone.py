"""Where a deployed flow finds its code: in the clone that the worker's Python has installed."""

import os
from pathlib import Path


def enter_clone() -> dict[str, str]:
    """Prefect's pull step: the root of this clone, made the current folder; each worker's own, wherever it lies."""
    root = str(Path(__file__).resolve().parent.parent)
    os.chdir(root)
    return {"directory": root}
