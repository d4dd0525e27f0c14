"""VoxConverse (conversations from YouTube, CC BY 4.0): wav files and the RTTM files of its repository.

Layout: dev/*.rttm and test/*.rttm (https://github.com/joonson/voxconverse), and the wav files at any depth beside them
(audio/ and voxconverse_test_wav/, as the archives of the corpus unpack). Its speakers have names within a file only, so a
speaker within a file is a group and the file its supergroup; who speaks in two files is not known.
"""

from pathlib import Path

import pandas as pd

from recipes.sources import VoxConverseSource
from tasks.sources import rttm
from tasks.sources.files import audio_under, demand, sought


def listing(block: VoxConverseSource, root: Path) -> pd.DataFrame:
    """One row per stretch of a single speaker, with the columns `part`, `uri` and `speaker`."""
    part_of: dict[str, str] = {}
    files: list[Path] = []
    for part in block.parts:
        found = sorted(demand(block.kind, root, part).glob("*.rttm"))
        if not found:
            raise sought(block.kind, root / part, "*.rttm")
        files += found
        part_of |= {file.stem: part for file in found}
    audio = {file.stem: file for file in audio_under(root, {".wav"})}
    table = rttm.listing(block, root, files, audio)
    supergroup = "voxconverse:" + table["uri"]
    return table.assign(
        part=table["uri"].map(part_of), category="conversation", family="speech", licence="CC BY 4.0",
        group_id=supergroup + ":" + table["speaker"], supergroup_id=supergroup,
    )  # fmt: skip
