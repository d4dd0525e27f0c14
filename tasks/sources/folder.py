"""Any folder of audio files: one class for all of them, or the folders right under root as classes.

A group is the folder that a file lies in (`group_by: folder`, so that cuts of one speaker stay together), its supergroup
the first folder below root or below the folder of its class, which goes to one part with all the groups in it; or, where
each file is a source of its own, the file (`group_by: file`). The category is the folder under root. Measured rooms lie
as KIND/ROOM/FILE: a design asks for the category KIND, and the impulse responses of one ROOM are a group; files right
under root are of the kind root is named by.
"""

from pathlib import Path

import pandas as pd

from recipes.sources import FolderSource
from tasks.sources.files import audio_under, sought


def listing(block: FolderSource, root: Path) -> pd.DataFrame:
    """One row per audio file, with the column `folder` (under root, "." for root).

    Raises FileNotFoundError where there is no audio or a folder of `labels` is missing, ValueError where a class or a kind
    of room is one single group.
    """
    for folder in block.labels:
        if not (root / folder).is_dir():
            raise sought(block.kind, root, f"the folder {folder} of `labels`")
    files = [file for folder in block.labels or ("",) for file in audio_under(root / folder)]
    if not files:
        raise sought(block.kind, root, "audio files (wav, flac, ogg, opus, mp3, aiff, au)")
    paths = [file.relative_to(root) for file in files]
    folders = pd.Series([path.parent.as_posix() for path in paths], dtype="str")
    rooms = block.role == "room"
    depth = 2 if block.labels or rooms else 1
    first = pd.Series([Path(*path.parent.parts[:depth]).as_posix() for path in paths], dtype="str")
    flat = root.resolve().name if rooms else ""
    top = pd.Series([path.parts[0] if len(path.parts) > 1 else flat for path in paths], dtype="str")
    names = pd.Series([path.as_posix() for path in paths], dtype="str")
    by_folder = block.group_by == "folder"
    table = pd.DataFrame({
        "path": names, "recording_id": f"{root.name}/" + names, "folder": folders, "category": top,
        "group_id": f"{root.name}/" + (folders if by_folder else names),
        "supergroup_id": f"{root.name}/" + (first if by_folder else names),
        "label": top.map(dict(block.labels)) if block.labels else block.label,
        "family": block.family, "licence": block.licence,
    })  # fmt: skip
    if by_folder and block.role != "noise":
        _refuse_single_groups(table, "category" if rooms else "label", root)
    return table


def _refuse_single_groups(table: pd.DataFrame, by: str, root: Path) -> None:
    groups = table.groupby(by)["supergroup_id"].nunique()
    if len(single := groups[groups == 1]):
        raise ValueError(
            f"source folder: all files of {single.index[0]} under {root} lie in one folder and would be one group. Put each "
            "speaker's, source's or room's files into a folder of its own, or say `group_by: file` where each file is a "
            "source of its own"
        )
