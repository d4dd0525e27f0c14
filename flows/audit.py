"""`earshot audit`: what the splits of any data set share, and what gives its labels away."""

from pathlib import Path
from typing import Annotated

import typer

audit_command = typer.Typer()


@audit_command.command("audit", epilog="Example:  earshot audit earshot/demo-clips --group group_id --strict")
def audit(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A folder (save_to_disk, parquet, or audio files in a folder a split), NAMESPACE/NAME[@sha] in the home, "
            "or NAMESPACE/NAME@sha on the Hub.",
            metavar="DATASET",
            show_default=False,
        ),
    ],
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", help="A column whose values may not stand in two splits, by default group_id; repeatable."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on suspects too, and where identities could not be compared.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for audit.json; by default one in the home.")
    ] = None,
) -> None:
    """Compare the splits of a data set: declared identities, exact audio, and content; exit 1 on a leak.

    Content is searched for copies at another offset, gain, SNR or band. Copies are planted as well, and how many of them
    were found is printed by SNR and duration: an audit that finds nothing proves no more than that.
    """
    from recipes.schema import CheckFailed
    from tasks.audit import audit_dataset

    done = audit_dataset(dataset, groups=group or (), out=out)
    print("\n".join(done.lines))
    if done.leaks:
        raise CheckFailed(f"the splits leak; {'; '.join(done.leaks)}")
    if done.unreadable:
        raise ValueError(f"{len(done.unreadable)} clips could not be read, so the audit is not whole")
    if strict and done.doubts:
        raise CheckFailed("; ".join(done.doubts))
