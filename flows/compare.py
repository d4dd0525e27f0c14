"""`earshot compare`: several reports side by side, and how accuracy went from one to the next."""

from pathlib import Path
from typing import Annotated

import typer

compare_command = typer.Typer()


@compare_command.command(
    "compare", epilog="Example:  earshot compare first/report.json second/report.json --out comparison"
)
def compare(
    reports: Annotated[
        list[str],
        typer.Argument(
            help="Reports in the order to show: report.json files, folders with one, or NAMESPACE/NAME[@sha] of the hub.",
            metavar="REPORT...",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for it: new, empty, or an earlier comparison.")
    ],
) -> None:
    """A table of several reports with intervals, figures over studies and over size, and a page.

    Whether two detectors differ is told by pairing their clips: `earshot report PREDICTIONS --against OTHER`.
    """
    from tasks.report_series import compare_reports

    print("\n".join(compare_reports(reports, out)))
