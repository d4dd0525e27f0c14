"""What the tests of training share: a few clips, a job over them, a fresh tiny model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.audio_files import encode_flac
from tasks.models import devices, family
from tasks.models.collation import Collator
from tasks.models.jobs import Question, TrainingJob

DURATIONS_MS = (25, 60, 61, 100, 150, 200, 200, 200)
ANSWERS = {"SPEECH": "A", "NONSPEECH": "B"}
PROMPT = "Choose one: A) SPEECH B) NONSPEECH."
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def write_clips(file, durations_ms=DURATIONS_MS) -> str:
    random = np.random.default_rng(7)
    rows = [
        {"clip_id": f"c{i}", "label": "SPEECH" if i % 2 else "NONSPEECH",
         "audio": {"bytes": encode_flac(random.uniform(-0.6, 0.6, 16 * ms)), "path": f"c{i}.flac"}}
        for i, ms in enumerate(durations_ms)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def collator(processor, clips, loss_on="answer", encoded=None) -> Collator:
    return Collator(processor, clips, PROMPT, ANSWERS, loss_on, encoded)


def job(tiny_base, output, **changes) -> TrainingJob:
    question = Question(classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt=PROMPT, longest_ms=200)
    facts = {
        "base": str(tiny_base), "revision": None, "base_name": "me/base", "base_revision": "b" * 40, "quantization": None,
        "question": question, "device": "cpu", "output": str(output), "lora": {"r": 4}, "scope": "language_model",
        "clips": (), "loss_on": "answer", "training": {}, "seed": 1,
    }  # fmt: skip
    return TrainingJob(**{**facts, **changes})


def fresh(tiny_base, quantization=None):
    quantised = devices.with_dtype(quantization, torch.float32)
    return family.load(tiny_base, revision=None, quantization=quantised, dtype=torch.float32, device="cpu")
