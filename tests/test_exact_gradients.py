"""The fast path is the true model: loss and gradients of packed, trimmed, answer-only batches are those of transformers'
own forward, padded to 30 s, with its own processor and logits everywhere."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.audio_files import decode_flac, encode_flac
from tasks.models import qwen2_audio
from tasks.models.collation import IGNORED
from tasks.models.devices import alike_on_every_cpu, with_dtype
from tasks.models.packing import packed_rows
from tasks.models.training import read_clips, to_train
from tests.adapting import NF4, PROMPT, collator, fresh, job
from tests.test_trainer import gradients, trainer_of

pytestmark = pytest.mark.slow  # 3000 frames a clip


def clips_of(folder, durations_ms):
    draw = np.random.default_rng(11)
    rows = [
        {"clip_id": f"c{i}", "label": "SPEECH" if i % 2 else "NONSPEECH",
         "audio": {"bytes": encode_flac(draw.uniform(-0.6, 0.6, 16 * ms)), "path": f"c{i}.flac"}}
        for i, ms in enumerate(durations_ms)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips.parquet")
    return read_clips([str(folder / "clips.parquet")])


def as_shipped(tiny_base, quantization):
    """The model as transformers loads it, nothing of ours in it."""
    from transformers import BitsAndBytesConfig, Qwen2AudioForConditionalGeneration

    given = with_dtype(quantization, torch.float32)
    config = BitsAndBytesConfig(**given, llm_int8_skip_modules=list(qwen2_audio.UNQUANTISED)) if given else None
    model = Qwen2AudioForConditionalGeneration.from_pretrained(
        tiny_base, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    return alike_on_every_cpu(model)


def padded(model, processor, clips):
    """What the shipped processor and forward give: loss, and logits in front of the answers, which end every row."""
    content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    texts = [text + {"SPEECH": "A", "NONSPEECH": "B"}[label] for label in clips["label"]]
    audio = [decode_flac(its["bytes"]) for its in clips["audio"]]
    inputs = processor(text=texts, audio=audio, sampling_rate=16_000, return_tensors="pt", padding=True)
    assert inputs["input_features"].shape[-1] == 3000
    assert inputs["attention_mask"][:, -1].all()
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    labels[:, -1] = inputs["input_ids"][:, -1]
    inputs["input_features"] = inputs["input_features"].to(model.dtype)
    output = model(**inputs, labels=labels)
    return output.loss, output.logits[:, -2]


def with_adapters(model, told):
    """Adapters that are no longer zero, the same for the same names."""
    wrapped = to_train(model, told)
    for name, parameter in sorted(wrapped.named_parameters()):
        if "lora_B" in name:
            draw = torch.Generator().manual_seed(sum(map(ord, name)))
            parameter.data = torch.randn(parameter.shape, generator=draw).to(parameter.dtype) * 0.05
    return wrapped.float() if not told.quantization else wrapped


MIXED = (30, 1000, 61, 200, 29_990)


@pytest.mark.parametrize("quantization", [None, NF4], ids=["plain", "nf4"])
@pytest.mark.parametrize("durations_ms", [(61, 100), (30_000, 29_990), MIXED], ids=["short", "longest", "mixed"])
def test_loss_and_gradients_are_those_of_the_padded_forward(
    tiny_base, processor, tmp_path, durations_ms, quantization
):
    clips = clips_of(tmp_path, durations_ms)
    told = job(
        tiny_base,
        tmp_path,
        quantization=quantization,
        scope="language_model+encoder",
        lora={"r": 4, "lora_dropout": 0.0},
    )
    reference = with_adapters(as_shipped(tiny_base, quantization), told)
    model = with_adapters(fresh(tiny_base, quantization), told)
    expected, _ = padded(reference.train(), processor, clips)
    expected.backward()
    collate = collator(processor, clips)
    trainer = trainer_of(model, processor, clips, collate, tmp_path)
    if quantization:  # SFTTrainer has made the adapters bf16: as exact as the reference for this comparison
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = reference.get_parameter(name).data.clone()
    with packed_rows(model.get_base_model().model.language_model):
        loss = trainer.compute_loss(model.train(), collate([{"row": row} for row in range(len(clips))]))
        loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs, ours = gradients(reference), gradients(model)
    assert theirs.keys() == ours.keys()
    assert any("audio_tower" in name for name in ours)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("durations_ms", [(61, 100), MIXED], ids=["short", "mixed"])
def test_in_bf16_answers_are_off_by_no_more_than_the_padded_forwards_own_rounding(
    tiny_base, processor, tmp_path, durations_ms
):
    clips = clips_of(tmp_path, durations_ms)
    collate, model = collator(processor, clips), fresh(tiny_base).to(torch.bfloat16)
    trainer = trainer_of(model, processor, clips, collate, tmp_path)
    with torch.no_grad():
        _, exact = padded(as_shipped(tiny_base, None).eval(), processor, clips)
        _, rounded = padded(as_shipped(tiny_base, None).to(torch.bfloat16).eval(), processor, clips)
        with packed_rows(model.model.language_model):
            batch = collate([{"row": row} for row in range(len(clips))])
            _, output = trainer.compute_loss(model.eval(), batch, return_outputs=True)
    own = (rounded - exact).norm()
    assert own > 0
    assert (output.logits - exact).norm() <= 1.2 * own
