"""LibriSpeech (read books, CC BY 4.0): SUBSET/READER/CHAPTER/READER-CHAPTER-UTTERANCE.flac beside SPEAKERS.TXT.

A reader is a group. Readers registered under one name are a supergroup: some are the same person under two numbers.
"""

import re
from pathlib import Path

import pandas as pd

from recipes.sources import LibriSpeechSource
from tasks.sources.files import audio_under, demand, sought

NAME = re.compile(r"(\d+)-(\d+)-(\d+)")


def listing(block: LibriSpeechSource, root: Path) -> pd.DataFrame:
    """One row per utterance, with the columns `subset`, `reader`, `chapter`, `sex` and `name`."""
    readers = _readers(demand(block.kind, root, "SPEAKERS.TXT"))
    rows = []
    for file in audio_under(root, {".flac"}):
        path = file.relative_to(root)
        if (found := NAME.fullmatch(file.stem)) and path.parts[1:-1] == found.groups()[:2]:
            reader, chapter, _ = found.groups()
            sex, name = readers.get(reader, ("", ""))
            rows.append((path.as_posix(), path.parts[0], reader, chapter, sex, name))
    if not rows:
        raise sought(block.kind, root, "SUBSET/READER/CHAPTER/READER-CHAPTER-UTTERANCE.flac")
    table = pd.DataFrame(rows, columns=["path", "subset", "reader", "chapter", "sex", "name"])
    named = "librivox:" + table["name"]
    return table.assign(
        group_id="librispeech:" + table["reader"],
        supergroup_id=named.where(table["name"] != "", "librispeech:" + table["reader"]),
        category="read speech", family="speech", licence="CC BY 4.0",
    )  # fmt: skip


def _readers(file: Path) -> dict[str, tuple[str, str]]:
    """Reader -> sex and name. Lines are `ID | SEX | SUBSET | MINUTES | NAME`, comments begin with a semicolon."""
    readers = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith(";") and line.count("|") >= 4:
            reader, sex, _, _, name = (field.strip() for field in line.split("|", 4))
            readers[reader] = (sex, name)
    return readers
