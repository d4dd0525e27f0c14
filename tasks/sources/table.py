"""A folder of audio files with a metadata table (csv or parquet) that names file, label and group."""

from pathlib import Path

import pandas as pd

from recipes.sources import TableSource
from tasks.sources.columns import FILE, read_columns


def listing(block: TableSource, root: Path) -> pd.DataFrame:
    """One row per row of the table that `where` keeps; a recording's id is its path, with its times where it has some.

    Raises FileNotFoundError where the table is missing, ValueError where a column is missing, a group or label is null or
    no row is left.
    """
    ours = read_columns(_read(root / block.metadata), block, block.metadata, FILE)
    return ours.assign(path=ours["file"], recording_id=ours["file"])


def _read(path: Path) -> pd.DataFrame:
    """The table as text: ids such as 007 or NA keep their spelling, and an empty field is null."""
    if not path.is_file():
        there = sorted(file.name for file in path.parent.iterdir() if file.suffix in {".csv", ".parquet"})
        raise FileNotFoundError(f"no table {path}; the folder has {', '.join(there) or 'no csv or parquet file'}")
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).convert_dtypes()
        return table.astype("str")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    raise ValueError(f"{path} is neither a .csv nor a .parquet file")
