"""Environment variables that sources read: which are not set, what a recipe wants of them, and where that comes from."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from recipes.corpora import CORPORA, ELSEWHERE
from recipes.reading import RECIPES, opened, read_yaml
from recipes.sources import DatasetsSource, FileSource, Source

VARIABLE = re.compile(r"\$\{(\w+)\}")


def unset_variables(blocks: Iterable[Source]) -> dict[str, str]:
    """Every variable that these sources read and that is not set, with the way to what it should name."""
    return {
        variable: way_to(block.kind, variable)
        for block in blocks
        for variable in variables_of(block)
        if not os.environ.get(variable)
    }


def variables_of(block: Source) -> list[str]:
    """The variables in the folder of a source; none where it has no folder."""
    folder = block.root if isinstance(block, FileSource) else block.repo if isinstance(block, DatasetsSource) else ""
    return VARIABLE.findall(folder)


def way_to(kind: str, variable: str) -> str:
    """Where what a source of this kind reads comes from, and how the variable is set to it."""
    if fetched := CORPORA.get(kind):
        return f"{fetched.title}: `earshot fetch {kind} --root DIR`, then export {variable}=DIR/{fetched.folder}"
    if by_hand := ELSEWHERE.get(kind):
        return (
            f"{by_hand.title}: `earshot fetch {kind}` says where it comes from, then export {variable}=/where/it/lies"
        )
    return (
        f"a folder of your own recordings, in the layout that its recipe reads: export {variable}=/where/it/lies "
        "(`earshot fetch` says which corpora it can download)"
    )


def shipped_variables() -> dict[str, tuple[str, list[str]]]:
    """Every variable that the sources of the shipped data sets read -> the kind of source, and the data sets."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file in sorted((RECIPES / "dataset").glob("*.yaml")):
        name = f"dataset/{file.stem}"
        for kind, variable in _read_by(opened(read_yaml(name))):
            names = found.setdefault(variable, (kind, []))[1]
            names += [name] if name not in names else []
    return found


def _read_by(dataset: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Kind of source and variable, for every source that reads one."""
    sources = dataset.get("sources")
    for source in sources if isinstance(sources, list) else []:
        for variable in VARIABLE.findall(str(source.get("root") or source.get("repo") or "")):
            yield source["kind"], variable
