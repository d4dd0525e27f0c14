"""Free Music Archive (licence per track): fma_*/000/000002.mp3 beside fma_metadata/tracks.csv.

A track is a group, its artist the supergroup, its top genre the category; the genre Spoken is left out unless
`keep_spoken`. Much of it is sung. Tracks are cut to stretches of `max_s`, `per_group` of each, from its middle. Some files
are cut short at the source: `on_bad_file: skip`. Untested on the real thing: written from the published layout.
"""

from pathlib import Path

import pandas as pd

from recipes.sources import FmaSource
from tasks.sources.files import audio_under, demand, sought

WANTED = {
    "artist": ("artist", "id"), "album": ("album", "id"), "genre": ("track", "genre_top"), "licence": ("track", "license"),
    "subset": ("set", "subset"), "split": ("set", "split"),
}  # fmt: skip


def listing(block: FmaSource, root: Path) -> pd.DataFrame:
    """One row per mp3 file that tracks.csv knows, with the columns `track`, `artist`, `album`, `genre`, `subset`, `split`.

    Raises FileNotFoundError where the layout is another one, ValueError where tracks.csv has other columns.
    """
    tracks = _tracks(demand(block.kind, root, "fma_metadata/tracks.csv"))
    files = [file for folder in sorted(root.glob("fma_*")) for file in audio_under(folder, {".mp3"})]
    known = [file for file in files if file.stem.isdecimal() and int(file.stem) in tracks.index]
    if not known:
        raise sought(block.kind, root, "fma_small/000/000002.mp3 (or another size) that tracks.csv knows")
    table = tracks.loc[[int(file.stem) for file in known]].reset_index(names="track").astype("str")
    table = table.fillna("").assign(path=[file.relative_to(root).as_posix() for file in known])
    table = table.assign(
        group_id="fma:" + table["track"], supergroup_id="fma-artist:" + table["artist"], category=table["genre"],
        family="music", licence=table["licence"].where(table["licence"] != "", "unstated"),
    )  # fmt: skip
    spoken = table["genre"] == "Spoken"
    return table if block.keep_spoken else table[~spoken].reset_index(drop=True)


def _tracks(file: Path) -> pd.DataFrame:
    """track_id -> what we need of it; the table has two rows of names above its columns."""
    table = pd.read_csv(file, index_col=0, header=[0, 1], low_memory=False)
    if missing := [name for name in WANTED.values() if name not in table]:
        raise ValueError(f"{file} has no column {' '.join(missing[0])!r}, which tracks.csv of FMA has")
    return pd.DataFrame({ours: table[theirs] for ours, theirs in WANTED.items()})
