"""`earshot report`: a report on any predictions table, whoever made it."""

from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import two_classes

report_command = typer.Typer()


@report_command.command(
    "report", epilog="Example:  earshot report predictions.parquet --against other.parquet --by phoneme --out report"
)
def report(
    predictions: Annotated[
        Path, typer.Argument(help="A predictions table: parquet, or csv.", metavar="PREDICTIONS", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report: new, empty, or an earlier report.")
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="OTHER", help="Another table to compare with, clip by clip; repeatable."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="COLUMN", help="A column to report by, beside those known; repeatable."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="NAME", help="The detector it is about, where the table holds several."),
    ] = None,
    dev: Annotated[
        Path | None,
        typer.Option("--dev", metavar="DEV", help="Table of dev rows: threshold and temperature are fitted on them."),
    ] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            "--audio", metavar="DATASET", help="Data set with the clips (parquet: clip_id, audio), to hear errors."
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option("--classes", metavar="NAME,NAME", help="The two class names; the first is the one to detect."),
    ] = "SPEECH,NONSPEECH",
    n_boot: Annotated[int, typer.Option("--n-boot", min=1, help="Resamples of groups behind an interval.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the resamples.")] = 0,
) -> None:
    """Metrics with intervals over groups, comparisons, errors, figures and a page, from a table of predictions.

    The table needs clip_id, group_id, label, and p_speech or prediction; every other column may be named in --by.
    Times in latency_ms are drawn and written to timing.json; they enter no number.
    An earlier report in the folder of --out is replaced; a folder that holds anything else is left alone.
    """
    from tasks.table_reports import Asked, report_on_tables

    asked = Asked(
        predictions=predictions, against=against or [], dev=dev, audio=audio, detector=detector, by=by or [],
        classes=two_classes(classes), n_boot=n_boot, seed=seed,
    )  # fmt: skip
    print("\n".join(report_on_tables(asked, out)))
