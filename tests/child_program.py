"""A job whose file holds the Python to run."""

from pathlib import Path


def main(path: str) -> None:
    exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), {"__name__": "job"})
