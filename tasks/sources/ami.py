"""AMI meetings (CC BY 4.0): wav files and RTTM files, as pyannote's set-up of the corpus lays them out.

Layout: *.rttm at any depth, and for each meeting MEETING.wav or MEETING.MICROPHONE.wav (amicorpus/ES2002a/audio/
ES2002a.Mix-Headset.wav). Speakers bear the same name in all meetings: a speaker is a group. The meetings ES2002a to ES2002d
are one series of the same people in one room, the supergroup.
"""

import re
from pathlib import Path

import pandas as pd

from recipes.sources import AmiSource
from tasks.sources import rttm
from tasks.sources.files import audio_under, sought


def listing(block: AmiSource, root: Path) -> pd.DataFrame:
    """One row per stretch of a single speaker, with the columns `uri` (the meeting) and `speaker`."""
    files = sorted(root.rglob("*.rttm"))
    if not files:
        raise sought(block.kind, root, "*.rttm")
    audio = {
        file.name.partition(".")[0]: file
        for file in audio_under(root, {".wav"})
        if file.stem.partition(".")[2] in ("", block.microphone)
    }
    table = rttm.listing(block, root, files, audio)
    series = table["uri"].map(lambda uri: re.sub(r"^([A-Z]{2}\d{4})[a-e]$", r"\1", uri))
    return table.assign(
        category="meeting", family="speech", licence="CC BY 4.0", group_id="ami:" + table["speaker"],
        supergroup_id="ami:" + series,
    )  # fmt: skip
