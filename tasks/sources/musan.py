"""MUSAN (music, speech and noise, CC BY 4.0, parts in the public domain): {music,noise,speech}/SOURCE/*.wav, ANNOTATIONS.

Files last minutes: each is cut into stretches of at most `max_s`, `per_group` of them. A file is a group; the artist that
ANNOTATIONS names is the supergroup of music. Readers and speakers of speech have no names, so one may stand in two groups,
and its readers come from LibriVox as those of LibriSpeech do. Crowds in noise have voices that nobody understands.
Untested on the real thing: written from the published layout.
"""

from pathlib import Path

import pandas as pd

from recipes.sources import MusanSource
from tasks.sources.files import audio_under, demand, sought


def listing(block: MusanSource, root: Path) -> pd.DataFrame:
    """One row per file, with the columns `part` (music, noise, speech), `genres`, `vocals` (Y, N or "") and `artist`.

    The category is the folder that the file lies in. Raises FileNotFoundError where the layout is another one, ValueError
    where a line of ANNOTATIONS of music is not `file genres vocals artist`.
    """
    parts = ("speech",) if block.take == "speech" else ("music", "noise")
    files = [(part, file) for part in parts for file in audio_under(demand(block.kind, root, part), {".wav"})]
    if not files:
        raise sought(block.kind, root, f"{parts[0]}/SOURCE/*.wav")
    about = {} if block.take == "speech" else _annotations(root / "music")
    table = pd.DataFrame(
        [
            (file.relative_to(root).as_posix(), part, file.parent.name, file.stem, *about.get(file.stem, ("", "", "")))
            for part, file in files
        ],
        columns=["path", "part", "category", "stem", "genres", "vocals", "artist"],
    )
    group = "musan:" + table["stem"]
    table = table.assign(
        family=table["part"], licence="CC BY 4.0 (corpus)", group_id=group,
        supergroup_id=("musan-artist:" + table["artist"]).where(table["artist"] != "", group),
    )  # fmt: skip
    sung = (table["part"] == "music") & (table["vocals"] != "N")
    return table if block.keep_vocals else table[~sung].reset_index(drop=True)


def _annotations(folder: Path) -> dict[str, tuple[str, str, str]]:
    """File -> genres, vocals and artist."""
    about = {}
    for file in sorted(folder.glob("*/ANNOTATIONS")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            fields = line.split()
            if fields and (len(fields) < 4 or fields[2] not in ("Y", "N")):
                raise ValueError(f"{file}, line {number}: {line!r} is not `file genres vocals artist`")
            if fields:
                about[fields[0]] = (fields[1], fields[2], fields[3])
    return about
