"""The report is derived from the predictions table, says what it cannot say, and refuses what may not be published."""

import json
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.functional.report import Report, build_report, publication_refusals, validate_predictions

CLASSES = ("SPEECH", "NONSPEECH")
SKILL = {"adapter": 1.6, "base": 0.4, "mel_statistics": 1.7, "loudness": 0.5, "majority": 0.0}  # d' at the middle level
LEAKAGE = {"verdict": "clean", "rows": [{"check": "group_id", "pairs": "train/test", "shared": 0}]}


def make_clips(groups: int = 12, per_cell: int = 1) -> pd.DataFrame:
    """Clips of a duration x SNR design: `groups` a class, speech groups by voice, nonspeech by generator (4 of them)."""
    rows = [
        {
            "clip_id": f"{label[:1]}{group:02d}-{duration_ms:g}-{snr_db}-{take}",
            "group_id": f"{label[:1]}{group:02d}",
            "supergroup_id": f"gen{group % 4}" if label == "NONSPEECH" else None,
            "label": label,
            "duration_ms": duration_ms,
            "snr_db": snr_db,
            "family": "voice" if label == "SPEECH" else ("music", "noise")[group % 2],
        }
        for label in CLASSES
        for group in range(groups)
        for duration_ms in (40.0, 80.0, 200.0, 500.0)
        for snr_db in (-5.0, 5.0, None)
        for take in range(per_cell)
    ]
    return pd.DataFrame(rows)


def score(clips: pd.DataFrame, skill: float, draw: int, **columns: Any) -> pd.DataFrame:
    """Predictions whose logit is skill +- group and clip noise, harder when short and noisy; skill 0 is constant."""
    rng = np.random.default_rng(draw)
    easier = np.log2(clips["duration_ms"] / 140) / 3 + clips["snr_db"].fillna(15) / 15
    names, group = np.unique(clips["group_id"], return_inverse=True)
    sign = np.where(clips["label"] == "SPEECH", 1, -1)
    noise = 0.5 * rng.normal(size=len(names))[group] + rng.normal(size=len(clips))
    logit = 0.3 if skill == 0 else skill * np.clip(0.5 + easier / 2, 0, 2) * sign + noise
    return clips.assign(p_speech=1 / (1 + np.exp(-logit)), **columns)


def make_predictions(groups: int = 12, per_cell: int = 1, seeds: tuple[int, ...] = (42, 43)) -> pd.DataFrame:
    """One table as a study makes it: adapter (two seeds) and base by generate and forward, three baselines."""
    test = make_clips(groups, per_cell)
    dev = test.assign(clip_id="dev-" + test["clip_id"], group_id="dev-" + test["group_id"])
    parts = []
    for split, clips in (("test", test), ("dev", dev)):
        for order, (name, skill) in enumerate(SKILL.items()):
            seed_of = seeds if name == "adapter" else (None,)
            methods = ("generate", "forward") if name in ("adapter", "base") else (None,)
            for seed in seed_of:
                one = score(clips, skill, (seed or 0) + order, detector=name, split=split, seed=seed)
                parts += [one.assign(protocol="group", fold=0, method=method) for method in methods]
    return pd.concat(parts, ignore_index=True)


def recorded(**others: Any) -> dict[str, Any]:
    gate = {"passed": True, "accuracy": 0.93, "required": 0.85, "on_fail": "stop"}
    return {"leakage": LEAKAGE, "gate": gate, "provenance": {"protocol": "group", "seeds": [42, 43]}} | others


def build(predictions: pd.DataFrame, **options: Any) -> Report:
    defaults = {"classes": CLASSES, "detector": "adapter", "seed": 42, "n_boot": 200, "recorded": recorded()}
    return build_report(predictions, **(defaults | options))
