"""Mozilla Common Voice, one language (CC0): validated.tsv (or train, dev, test) beside clips/*.mp3.

A client_id is a group; one person may have several. Untested on the real thing: written from the published layout.
"""

import csv
from pathlib import Path

import pandas as pd

from recipes.sources import CommonVoiceSource
from tasks.sources.files import demand


def listing(block: CommonVoiceSource, root: Path) -> pd.DataFrame:
    """One row per clip of the table, with its columns (`gender`, `age`, `accents`, `locale`, `sentence` ...).

    Raises FileNotFoundError where table or clips are missing, ValueError where the table has no client_id or path.
    """
    file = demand(block.kind, root, f"{block.table}.tsv")
    demand(block.kind, root, "clips")
    table = pd.read_csv(
        file, sep="\t", dtype="str", keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8"
    )  # sentences hold quotes
    for column in ("client_id", "path"):
        if column not in table:
            raise ValueError(f"{file} has no column {column!r}; it has {', '.join(table.columns)}")
    if (nobody := table["client_id"] == "").any():
        raise ValueError(f"{file}: {int(nobody.sum())} rows have no client_id")
    return table.assign(
        path="clips/" + table["path"], group_id="common_voice:" + table["client_id"], category="read speech",
        family="speech", licence="CC0 1.0",
    )  # fmt: skip
