"""The command line's `lineage`: what a published repository was made from."""

from typing import Annotated

import typer

lineage_command = typer.Typer()


@lineage_command.command("lineage", epilog="Example:  earshot lineage earshot/demo-adapter")
def lineage(
    repo: Annotated[
        str, typer.Argument(help="NAMESPACE/NAME[@sha] in the home or on the Hub, or a folder.", metavar="REPO")
    ],
) -> None:
    """Recipe, data set, base, adapter, report and card, each with its parents; exit 1 where one names another parent."""
    from recipes.schema import CheckFailed
    from tasks.lineage import lineage as links_of

    links = links_of(repo)
    for link in links:
        print(f"{link.verdict:<9} {link.part:<9} {link.name}{f'  ({link.note})' if link.note else ''}")
        for parent in link.parents:
            print(f"{'':<19}   from {parent}")
    if different := [link.part for link in links if link.verdict == "differs"]:
        raise CheckFailed(f"{', '.join(different)}: what is named is not what lies there")
