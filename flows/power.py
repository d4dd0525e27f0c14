"""`earshot power`: what a test set can show, and how large one would have to be."""

from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import two_classes

power_command = typer.Typer()


@power_command.command(
    "power",
    epilog="Example:  earshot power --difference 0.03 --discordance 0.10 --design-effect 4 --clips-per-group 12",
)
def power(
    difference: Annotated[
        float, typer.Option("--difference", help="Difference of two accuracies that is to be shown.")
    ] = 0.03,
    discordance: Annotated[
        float | None, typer.Option("--discordance", help="Share of the clips on which just one of the two is right.")
    ] = None,
    design_effect: Annotated[
        float | None,
        typer.Option("--design-effect", help="How many clips count for one independent one; by default 1."),
    ] = None,
    clips: Annotated[int | None, typer.Option("--clips", help="Test clips there are: what would they show?")] = None,
    clips_per_group: Annotated[
        float | None, typer.Option("--clips-per-group", help="Clips of one speaker or source recording.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="A predictions table (parquet) to measure all this on.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another one, of the detector to compare with, on the same clips.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="The detector in --predictions, where it holds several.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Its seed, where it holds several.")] = None,
    classes: Annotated[str, typer.Option("--classes", help="The two class names of the tables.")] = "SPEECH,NONSPEECH",
) -> None:
    """Say how many clips, from how many groups, a difference between two detectors needs, and what a test set shows.

    Either for a design (--discordance, --design-effect) or as measured on predictions (--predictions, --against).
    """
    from tasks.power import describe_design, describe_predictions

    of_design = {"--discordance": discordance, "--design-effect": design_effect, "--clips": clips,
                 "--clips-per-group": clips_per_group}  # fmt: skip
    of_tables = {"--against": against, "--detector": detector, "--seed": seed}
    given = [name for name, value in (of_tables if predictions is None else of_design).items() if value is not None]
    if given:
        raise ValueError(f"{given[0]} has no meaning {'without' if predictions is None else 'beside'} --predictions")
    if predictions is not None:
        lines = describe_predictions(predictions, against, detector, seed, two_classes(classes), difference)
    elif discordance is None:
        raise ValueError("give --discordance, e.g. 0.1, or --predictions and --against to measure it on")
    else:
        lines = describe_design(
            difference, discordance, 1.0 if design_effect is None else design_effect, clips, clips_per_group
        )
    print("\n".join(lines))
