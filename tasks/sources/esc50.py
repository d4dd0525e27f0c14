"""ESC-50 (environmental sounds, CC BY-NC 3.0 as a set, per clip in LICENSE): audio/*.wav, meta/esc50.csv, LICENSE.

A group is the Freesound recording that clips were cut from (src_file), its supergroup the uploader. Not the fold: some
recordings stand in two folds each. Five groups of ten categories: animals, natural, human, interior, exterior; the human
one is left out unless `keep_human`.
"""

import re
from pathlib import Path

import pandas as pd

from recipes.sources import ESC50_HUMAN, Esc50Source
from tasks.sources.files import demand

SECTIONS = ("animals", "natural", "human", "interior", "exterior")  # of ten targets each
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
CREDIT = re.compile(r"^- \[(\d+-\d+-[A-Z])\w*\.ogg\]: .*/\) by (.+) \[([^\]]+)\]$", re.MULTILINE)


def listing(block: Esc50Source, root: Path) -> pd.DataFrame:
    """One row per clip, with the columns of esc50.csv, `uploader` and `section` (one of `SECTIONS`).

    Raises FileNotFoundError where a part of the layout is missing, ValueError where the table has other columns.
    """
    demand(block.kind, root, "audio")
    file = demand(block.kind, root, "meta/esc50.csv")
    table = pd.read_csv(file, dtype="str", keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{file} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
    text = demand(block.kind, root, "LICENSE").read_text(encoding="utf-8")
    credits_of = {clip: (uploader, licence) for clip, uploader, licence in CREDIT.findall(text)}
    told = [credits_of.get(name.rpartition("-")[0], ("", "")) for name in table["filename"]]
    uploader, clip = (pd.Series(column, index=table.index, dtype="str") for column in zip(*told, strict=True))
    section = table["target"].astype(int).floordiv(10).map(dict(enumerate(SECTIONS)))
    of_set = table["esc10"].map({"True": "CC BY 3.0 (ESC-10)"}).fillna("CC BY-NC 3.0 (ESC-50)")
    group = "freesound:" + table["src_file"]
    table = table.assign(
        path="audio/" + table["filename"], uploader=uploader, section=section, group_id=group,
        supergroup_id=("freesound-user:" + uploader).where(uploader != "", group),
        family=section.where(section == "animals", "environment"),
        licence=(clip + " (clip); ").where(clip != "", "") + of_set,
    )  # fmt: skip
    human = table["category"].isin(ESC50_HUMAN)
    return table if block.keep_human else table[~human].reset_index(drop=True)
