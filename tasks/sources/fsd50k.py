"""FSD50K (Freesound clips of 200 classes, licence per clip): FSD50K.{dev,eval}_audio, .ground_truth, .metadata.

A clip is one Freesound recording, a group under the same name as in ESC-50; its uploader is the supergroup. Labels hold
their ancestors. Speech is what is labelled Speech; nonspeech what has none of the labels of human voice, crowds and breath.
Untested on the real thing: written from the published layout.
"""

import json
from pathlib import Path

import pandas as pd

from recipes.sources import FSD50K_HUMAN, Fsd50kSource
from tasks.sources.files import demand, sought

LICENCES = {"zero": "CC0 1.0", "by": "CC BY 3.0", "by-nc": "CC BY-NC 3.0", "sampling+": "CC Sampling+ 1.0"}


def listing(block: Fsd50kSource, root: Path) -> pd.DataFrame:
    """One row per clip of the class, with the columns `labels`, `split` (train, val, test), `uploader` and `title`.

    The category is the first label. Raises FileNotFoundError where a part of the layout is missing.
    """
    parts = [part for part in ("dev", "eval") if (root / f"FSD50K.{part}_audio").is_dir()]
    if not parts:
        raise sought(block.kind, root, "FSD50K.dev_audio or FSD50K.eval_audio")
    table = pd.concat([_part(block.kind, root, part) for part in parts], ignore_index=True)
    labels = table["labels"].str.split(",").map(set)
    human = labels.map(lambda its: not its.isdisjoint(FSD50K_HUMAN))
    wanted = labels.map(lambda its: "Speech" in its) if block.take == "speech" else ~human
    family = labels.map(lambda its: _family(its, block.take == "speech"))
    return table.assign(category=table["labels"].str.partition(",")[0], family=family)[wanted].reset_index(drop=True)


def _part(kind: str, root: Path, part: str) -> pd.DataFrame:
    table = pd.read_csv(demand(kind, root, f"FSD50K.ground_truth/{part}.csv"), dtype="str", keep_default_na=False)
    for column in ("fname", "labels"):
        if column not in table:
            raise ValueError(
                f"FSD50K.ground_truth/{part}.csv has no column {column!r}; it has {', '.join(table.columns)}"
            )
    about = json.loads(
        demand(kind, root, f"FSD50K.metadata/{part}_clips_info_FSD50K.json").read_text(encoding="utf-8")
    )
    clips = [about.get(name, {}) for name in table["fname"]]
    group = "freesound:" + table["fname"]
    uploader = pd.Series([str(clip.get("uploader", "")) for clip in clips], dtype="str")
    return pd.DataFrame({
        "path": f"FSD50K.{part}_audio/" + table["fname"] + ".wav", "labels": table["labels"],
        "split": table.get("split", "test"), "uploader": uploader,
        "title": [str(clip.get("title", "")) for clip in clips], "group_id": group,
        "supergroup_id": ("freesound-user:" + uploader).where(uploader != "", group),
        "licence": [_licence(str(clip.get("license", ""))) for clip in clips],
    })  # fmt: skip


def _licence(url: str) -> str:
    """The name of a Creative Commons address; the address itself where it is another."""
    names = [LICENCES[part] for part in url.split("/") if part in LICENCES]
    return names[0] if names else url or "unstated"


def _family(labels: set[str], speech: bool) -> str:
    if speech:
        return "speech"
    return "animals" if "Animal" in labels else "music" if labels & {"Music", "Musical_instrument"} else "environment"
