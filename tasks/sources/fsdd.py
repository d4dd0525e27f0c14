"""Free Spoken Digit Dataset (CC BY-SA 4.0): recordings/DIGIT_SPEAKER_TAKE.wav at 8 kHz.

A speaker is a group, a digit the category. Nothing in it lies above 4 kHz: report results on it apart.
"""

import re
from pathlib import Path

import pandas as pd

from recipes.sources import FsddSource
from tasks.sources.files import audio_under, demand, sought

NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")


def listing(block: FsddSource, root: Path) -> pd.DataFrame:
    """One row per digit spoken, with the columns `digit`, `speaker` and `take`."""
    folder = demand(block.kind, root, "recordings")
    matched = [(file, NAME.fullmatch(file.stem)) for file in audio_under(folder, {".wav"})]
    rows = [(file.relative_to(root).as_posix(), *found.groups()) for file, found in matched if found]
    if not rows:
        raise sought(block.kind, folder, "DIGIT_SPEAKER_TAKE.wav")
    table = pd.DataFrame(rows, columns=["path", "digit", "speaker", "take"])
    return table.assign(
        group_id="fsdd:" + table["speaker"], category=table["digit"], family="speech", licence="CC BY-SA 4.0"
    )
