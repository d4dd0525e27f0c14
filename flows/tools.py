"""Commands around a study that run none: plan, doctor, inspect, clean."""

from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import Overrides, Study
from flows.stages import Stage

tools = typer.Typer()


def print_plan(
    study: str, overrides: list[str] | None, until: Stage = "publish", refresh: Stage | None = None
) -> None:
    """The plan, line by line."""
    from recipes.leaderboard import is_leaderboard, load_leaderboard

    if is_leaderboard(study):
        from tasks.report_series import describe_leaderboard

        print("\n".join(describe_leaderboard(load_leaderboard(study, overrides or []))))
        return
    from flows.plan_study import plan_study

    print("\n".join(plan_study(study, overrides or [], until, refresh)))


@tools.command("plan", epilog="Example:  earshot plan study/demo --set dataset.splits.seed=7")
def plan(study: Study, overrides: Overrides = None) -> None:
    """Say what a study would run, hold, take and be able to decide, and what is cached; runs nothing."""
    print_plan(study, overrides)


@tools.command("doctor", epilog="Example:  earshot doctor")
def doctor() -> None:
    """Look at this machine: libraries, GPU, disk, home, corpus, Hub, server. Exit 1 on what would stop study/demo."""
    from recipes.schema import CheckFailed
    from tasks.diagnosis import examine

    problems = 0
    for finding in examine():
        print(f"{finding.state:<8}  {finding.what:<13}  {finding.says}", flush=True)
        problems += finding.state == "problem"
    if problems:
        raise CheckFailed(
            f"{problems} {'problem' if problems == 1 else 'problems'} would stop `earshot run study/demo`"
        )


@tools.command("inspect", epilog="Example:  earshot inspect earshot/demo-clips --n 100 --out listening")
def inspect(
    dataset: Annotated[
        str,
        typer.Argument(
            help="NAMESPACE/NAME[@sha] in the home, NAMESPACE/NAME@sha on the Hub, or a folder with data/*.parquet.",
            metavar="DATASET",
        ),
    ],
    n: Annotated[
        int,
        typer.Option("--n", min=1, help="Clips of each class on the listening sheet, balanced over the conditions."),
    ] = 100,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where listening.html goes; by default into the home.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the clips.")] = 0,
) -> None:
    """Count and measure a data set, and write a page to hear some of its clips on."""
    from tasks.inspection import inspect_dataset

    print("\n".join(inspect_dataset(dataset, n=n, out=out, seed=seed)))


@tools.command("clean", epilog="Example:  earshot clean --yes")
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
) -> None:
    """Show what the home holds that nothing needs any more, with sizes; remove it with --yes."""
    from tasks.housekeeping import clean_home

    print("\n".join(clean_home(remove=yes)))
