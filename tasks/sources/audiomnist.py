"""AudioMNIST (spoken digits, MIT): data/SPEAKER/DIGIT_SPEAKER_TAKE.wav beside data/audioMNIST_meta.txt.

A speaker is a group, a digit the category.
"""

import json
import re
from pathlib import Path

import pandas as pd

from recipes.sources import AudioMnistSource
from tasks.sources.files import audio_under, demand, sought

NAME = re.compile(r"(\d)_(\d+)_(\d+)")


def listing(block: AudioMnistSource, root: Path) -> pd.DataFrame:
    """One row per digit spoken, with the columns `digit`, `speaker`, `take`, `gender`, `accent` and `native`.

    Raises FileNotFoundError where the layout is another one, ValueError where the JSON of the speakers cannot be read.
    """
    meta = demand(block.kind, root, "data/audioMNIST_meta.txt")
    try:
        speakers = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{meta} is not the JSON of speakers that AudioMNIST has: {error}") from error
    rows = []
    for file in audio_under(root / "data", {".wav"}):
        if (found := NAME.fullmatch(file.stem)) and file.parent.name == found[2]:
            about = speakers.get(found[2], {})
            told = (str(about.get(key, "")) for key in ("gender", "accent", "native speaker"))
            rows.append((file.relative_to(root).as_posix(), *found.groups(), *told))
    if not rows:
        raise sought(block.kind, root / "data", "SPEAKER/DIGIT_SPEAKER_TAKE.wav")
    table = pd.DataFrame(rows, columns=["path", "digit", "speaker", "take", "gender", "accent", "native"])
    return table.assign(
        group_id="audiomnist:" + table["speaker"], category=table["digit"], family="speech", licence="MIT"
    )
