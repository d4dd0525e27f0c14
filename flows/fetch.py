"""The command that brings a corpus: licence shown and agreed to, downloaded, checked, unpacked, and read once."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recipes.corpora import Archive, Corpus

fetching = typer.Typer()


@fetching.command("fetch", epilog="Example:  earshot fetch librispeech --part dev-clean --root /data")
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="A corpus; without one they are listed.", metavar="[NAME]")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="The folder that the corpus gets a folder in.")] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", help="A part of the corpus, as often as needed.", metavar="PART")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The licence is agreed to; do not ask.")] = False,
) -> None:
    """Download a corpus that may be downloaded by a script; say of the others where they come from."""
    from recipes.corpora import CORPORA, ELSEWHERE

    if name is None:
        print("\n".join(listing()))
        return
    if by_hand := ELSEWHERE.get(name):
        print(f"{by_hand.title}, {by_hand.licence}\nfrom {by_hand.page}: {by_hand.how}")
        print(f"then, in a recipe:\n  - {{kind: {name}, root: FOLDER}}")
        return
    if name not in CORPORA:
        raise ValueError(f"no corpus {name!r}; there are {', '.join(sorted([*CORPORA, *ELSEWHERE]))}")
    corpus = CORPORA[name]
    parts = parts_of(corpus, part or [])
    if root is None:
        raise ValueError(f"say where to: earshot fetch {name} --root DIR")
    archives = [*corpus.always, *(archive for chosen in parts for archive in corpus.parts[chosen])]
    agree(corpus, parts, archives, root, yes)
    bring(name, corpus, parts, archives, root)


def listing() -> list[str]:
    """Every corpus, a line each."""
    from recipes.corpora import CORPORA, ELSEWHERE

    fetched = [f"{name:<13} fetched  {its.title} ({its.licence})" for name, its in CORPORA.items()]
    return sorted([*fetched, *(f"{name:<13} by hand  {its.title} ({its.licence})" for name, its in ELSEWHERE.items())])


def parts_of(corpus: "Corpus", asked: list[str]) -> tuple[str, ...]:
    """The parts that are asked for. Raises ValueError on one that the corpus does not have."""
    if unknown := [part for part in asked if part not in corpus.parts]:
        raise ValueError(f"{corpus.title} has no part {unknown[0]!r}; it has {', '.join(corpus.parts)}")
    return tuple(dict.fromkeys(asked)) or corpus.default


def agree(corpus: "Corpus", parts: tuple[str, ...], archives: "list[Archive]", root: Path, yes: bool) -> None:
    """Show licence and sizes and ask. Raises ValueError where nobody can answer, exits where the answer is no."""
    from tasks.fetching import client, size_of

    with client() as web:
        sizes = [size_of(volume, web) for archive in archives for volume in archive.volumes]
    known = sum(size or 0 for size in sizes) / 1e6
    told = f"{known:,.0f} MB" + (" and what does not tell its size" if None in sizes else "")
    others = [part for part in corpus.parts if part not in parts]
    print(f"{corpus.title}\n  licence   {corpus.licence}\n  terms     {corpus.page}\n  parts     {', '.join(parts)}")
    print("".join(f"            not {', '.join(others)}: --part takes them\n" for _ in others[:1]), end="")
    print(f"  download  {told}, and as much again or more once unpacked\n  to        {root / corpus.folder}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("nobody is here to agree to the licence: say --yes once you have read it")
    try:
        agreed = typer.confirm("Download it under this licence?")
    except typer.Abort:
        agreed = False
    if not agreed:
        print("nothing was downloaded")
        raise typer.Exit(1)


def bring(name: str, corpus: "Corpus", parts: tuple[str, ...], archives: "list[Archive]", root: Path) -> None:
    """Fetch the archives, read what came, and say how a recipe names it."""
    from recipes.sources import KINDS
    from tasks import sources
    from tasks.fetching import check_content, download, fetched, unpacked
    from tasks.unpacking import unpack

    def tell(line: str) -> None:
        print(line, flush=True)

    for archive in archives:
        if fetched(archive, root, corpus.folder):
            tell(f"{archive.volumes[-1].name}: fetched before")
            continue
        files = [download(volume, root, tell) for volume in archive.volumes]
        tell(f"unpacking {files[-1].name}")
        check = partial(check_content, archive, root, tell)
        unpacked(archive, root, unpack(files, root / corpus.folder, archive.strip, check))
    keys = {
        "kind": name,
        "root": str(root / corpus.folder),
        **({corpus.part_key: list(parts)} if corpus.part_key else {}),
    }
    table = sources.recordings(KINDS[name].model_validate(keys))  # type: ignore[arg-type]
    told = json.dumps(keys).replace('"', "")
    print(f"{len(table):,} recordings of {table['group_id'].nunique():,} groups; in a recipe:\n  - {told}")
