"""The child process that makes a tiny base."""

from pathlib import Path

import numpy as np
import torch

from tasks.models import family, tiny
from tasks.models.collation import Collator
from tasks.models.devices import pick_device
from tasks.models.jobs import PretrainingJob
from tasks.models.trainer import fit
from tasks.models.training import read_clips, restricted_accuracy


def main(path: str) -> None:
    """Make, train and save a base as transformers loads it: full-length encoder, processor and all."""
    job = PretrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    device = pick_device(job.device)
    processor = tiny.make_processor()
    clips = read_clips(job.clips)
    answers = dict(zip(job.question.classes, job.question.answers, strict=True))
    collate = Collator(processor, clips, job.question.prompt, answers, "answer")
    features = [clip.features[:, : clip.frames] for clip in collate.clips if isinstance(clip, family.Clip)]
    heard = np.concatenate([its.T.numpy() for its in features])
    model = tiny.make_model(processor, job.seed, heard)
    model = family.prepare(model).to(device)
    training = {
        "max_steps": job.steps, "per_device_train_batch_size": job.batch_size, "learning_rate": job.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": 20, "weight_decay": 0.01,
    }  # fmt: skip
    fit(model, processor, clips, collate, training, seed=job.seed, output=job.output, device=device)
    print(f"base: {restricted_accuracy(model, collate):.2f} of its clean training clips answered right", flush=True)
    model.to(torch.float32).save_pretrained(job.output, safe_serialization=True)
    processor.save_pretrained(job.output)
