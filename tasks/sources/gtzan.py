"""GTZAN (30 s of music in ten genres, no licence stated): GENRE/GENRE.00000.wav (or .au), in genres/ or genres_original/.

A file is a group; it holds repeated excerpts and artists under different names (Sturm 2013, arXiv:1306.1461), which no
table of the corpus tells. Much of it is sung. jazz.00054.wav of the copy at Kaggle cannot be read: `on_bad_file: skip`.
Untested on the real thing: written from the published layout.
"""

import re
from pathlib import Path

import pandas as pd

from recipes.sources import GtzanSource
from tasks.sources.files import audio_under, sought

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
NAME = re.compile(rf"({'|'.join(GENRES)})\.\d{{5}}")


def listing(block: GtzanSource, root: Path) -> pd.DataFrame:
    """One row per file; the category is the genre. Raises FileNotFoundError where the layout is another one."""
    files = [file for file in audio_under(root, {".wav", ".au"}) if NAME.fullmatch(file.stem)]
    files = [file for file in files if file.parent.name == file.stem.partition(".")[0]]
    if not files:
        raise sought(block.kind, root, "GENRE/GENRE.00000.wav or .au (blues/blues.00000.wav)")
    table = pd.DataFrame({"path": [file.relative_to(root).as_posix() for file in files]})
    stems = [file.stem for file in files]
    return table.assign(
        group_id=[f"gtzan:{stem}" for stem in stems], category=[stem.partition(".")[0] for stem in stems],
        family="music", licence="unstated",
    )  # fmt: skip
