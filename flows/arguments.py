"""What several commands take."""

from typing import Annotated

import typer

from flows.stages import Runner, Stage

Study = Annotated[str, typer.Argument(help="A study's name (study/demo) or the path of its YAML.", metavar="STUDY")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, as often as needed.", metavar="KEY.PATH=VALUE")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would run, as `earshot plan` does.")]
Refresh = Annotated[
    Stage | None, typer.Option("--refresh", help="Run this stage and what follows anew, cached or not.")
]
On = Annotated[
    Runner,
    typer.Option(
        "--runner", help="Where tasks run: threads here, processes here, or a Dask cluster (never in a recipe)."
    ),
]


def two_classes(given: str) -> tuple[str, str]:
    """The names in NAME,NAME. Raises ValueError unless they are two that differ in more than capitals."""
    names = [name.strip() for name in given.split(",")]
    if len(names) != 2 or not all(names) or names[0].lower() == names[1].lower():
        raise ValueError(f"--classes {given}: give two different names, e.g. SPEECH,NONSPEECH")
    return names[0], names[1]
