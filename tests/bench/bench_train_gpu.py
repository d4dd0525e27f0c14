"""QLoRA of Qwen2-Audio-7B on GPUs: the original loop against what a study runs, all in one run, ratios side by side.

    python -m tests.bench.bench_train_gpu [--rows ROW ...]         # e.g. --rows cached compiled: what torch_compile adds
    python -m tests.bench.bench_train_gpu --rows cached --where    # and where a step's time goes, by kind of kernel
    accelerate launch --num_processes N --mixed_precision no -m tests.bench.bench_train_gpu --rows cached

Weights are random and of full size, made on the GPU: nothing is downloaded. Clips are 1 s long, the adapter has rank 16 on
q, k, v and o. The baseline is the original project's loop as it was. Every other row is the training child's own `main`
over FLAC in parquet, its weights aside: its speed is that of its optimizer steps once the compiled kernels are there, the
batch is the one its trial found, its peak of memory that of its steps. Two shares of the peak
of a large bf16 matrix product: of what the plain model would compute for these clips, forward and backward, and of what is
computed, the question's start being computed once a batch. What a checkpoint computes again counts in neither.
"""

import argparse
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from tasks.audio_files import decode_flac
from tasks.models import family, tiny, trainer, training
from tasks.models.frames import POOLED, SAMPLE_RATE_HZ
from tasks.models.jobs import Question, TrainingJob
from tests.bench.kernel_shares import Watch, lines_of
from tests.bench.real_size import TEXT, encoder_flop, make_config, make_model, measured_peak, quantise
from tests.bench.scoring_rows import PROMPTS, make_clips

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
TOKENS = POOLED.audio_tokens(SAMPLE_RATE_HZ)
CHECKPOINTED = {"gradient_checkpointing": True}
WARM_STEPS, TIMED_STEPS, WATCHED_STEPS = 5, 8, 2  # the first ones compile; the last ones are slowed by being watched


class Asked(NamedTuple):
    """A row: what a recipe would say for it."""

    name: str
    scope: str
    clips_a_step: int
    training: Mapping[str, Any] = MappingProxyType({})
    memory_gb: float | None = None
    quantised: bool = True


ROWS = {
    "trimmed": Asked("exact trimmed encoder, scope language_model+encoder", "language_model+encoder", 64),
    "cached": Asked("scope language_model, encodings kept", "language_model", 256),
    "compiled": Asked("the same, layers compiled (torch_compile)", "language_model", 256, {"torch_compile": True}),
    "bf16": Asked("the same over a bf16 base", "language_model", 256, quantised=False),
    "12gb": Asked("encodings kept, within 12 GB", "language_model", 128, CHECKPOINTED, 12.0),
    "8gb": Asked("encodings kept, within 8 GB", "language_model", 96, CHECKPOINTED, 8.0),
}


class Measured(NamedTuple):
    """What came of a row: clips/s over all devices, clips that a device took at once, peak of memory in bytes."""

    name: str
    clips_per_s: float
    at_once: int
    bytes_peak: int
    encoder: bool
    where: tuple[str, ...] = ()  # its time goes


def original(processor: Any, clips: Sequence[bytes], steps: int = 4) -> Measured:
    """The loop of the original project: 2 clips padded to 30 s by the processor, 8 batches a step, logits everywhere."""
    from peft import LoraConfig, get_peft_model

    model = quantise(make_model(processor, "cuda"), everything=True)
    model = get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM")).train()
    message = [
        {"role": "user", "content": [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": PROMPTS[0]}]}
    ]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    waveforms = itertools.cycle([decode_flac(clip) for clip in clips[:32]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    torch.cuda.reset_peak_memory_stats()
    ends = []
    for _ in range(steps):
        for _ in range(8):
            pair = [next(waveforms), next(waveforms)]
            batch = processor(text=[text + "A", text + "B"], audio=pair, sampling_rate=SAMPLE_RATE_HZ, padding=True,
                              return_tensors="pt").to("cuda")  # fmt: skip
            batch["input_features"] = batch["input_features"].to(torch.bfloat16)
            labels = torch.full_like(batch["input_ids"], -100)
            labels[:, -1] = batch["input_ids"][:, -1]
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(**batch, labels=labels).loss / 8
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
    speed = 16 * (steps - 2) / (ends[-1] - ends[1])
    return Measured(
        "the original: batch 2 x 8, padded to 30 s, NF4", speed, 2, torch.cuda.max_memory_allocated(), True
    )


class Timed(trainer.Progress):
    """Also the clock when the device has done its warm-up and its timed steps, and how the batch was shared out; the steps
    behind those are watched."""

    marks: ClassVar[list[float]] = []
    at_once = 0
    watch: ClassVar[Watch | None] = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_STEPS, WARM_STEPS + TIMED_STEPS):
            torch.cuda.synchronize()
            Timed.marks.append(time.perf_counter())
        if Timed.watch and state.global_step == WARM_STEPS + TIMED_STEPS:
            Timed.watch.start()
        if Timed.watch and state.global_step == state.max_steps:
            Timed.watch.stop()
        if state.global_step == WARM_STEPS:
            torch.cuda.reset_peak_memory_stats()  # trials that did not fit filled the card
        Timed.at_once = args.per_device_train_batch_size
        super().on_step_end(args, state, control, **kwargs)


def made(processor: Any, quantised: bool, memory_gb: float | None) -> Any:
    """Stands in for loading: weights are made in full and quantised before the limit of memory holds again."""

    def load(*_: Any, **__: Any) -> nn.Module:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model = make_model(processor, "cuda")
        if quantised:
            quantise(model)
            model.is_loaded_in_4bit = True
        gc.collect()
        torch.cuda.empty_cache()
        if memory_gb:
            training.allow_memory(memory_gb)
        torch.cuda.reset_peak_memory_stats()
        return family.prepare(model)

    return load


def ours(asked: Asked, processor: Any, clips: str, folder: Path, *, watched: bool) -> Measured:
    """The child's own `main` for this row."""
    question = Question(classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt=PROMPTS[0], longest_ms=1000)
    steps = WARM_STEPS + TIMED_STEPS + WATCHED_STEPS * watched
    job = TrainingJob(
        base="random", revision=None, base_name="random/7b", base_revision="0" * 40,
        quantization=NF4 if asked.quantised else None, question=question, device="cuda", output=str(folder / "out"),
        lora=LORA, scope=asked.scope, clips=(clips,), loss_on="answer", seed=1, batch_size=asked.clips_a_step,
        training={"per_device_train_batch_size": "auto", "max_steps": steps, "logging_steps": steps, **asked.training},
        memory_gb=asked.memory_gb,
    )  # fmt: skip
    (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    Timed.marks.clear()
    Timed.watch = Watch() if watched else None
    with (
        mock.patch.object(family, "load_processor", return_value=processor),
        mock.patch.object(training.AutoConfig, "from_pretrained", return_value=make_config(processor)),
        mock.patch.object(family, "load", made(processor, asked.quantised, asked.memory_gb)),
        mock.patch.object(trainer, "Progress", Timed),
        mock.patch.object(training, "GATE_CLIPS", 64),
    ):
        training.main(str(folder / "job.json"))
    begin, end = Timed.marks
    speed = asked.clips_a_step * TIMED_STEPS / (end - begin)
    torch.cuda.set_per_process_memory_fraction(1.0)
    where = tuple(lines_of(Timed.watch)) if Timed.watch else ()
    peak = torch.cuda.max_memory_allocated()
    return Measured(asked.name, speed, Timed.at_once, peak, "encoder" in asked.scope, where)


def clip_flop(measured: Measured, before: int, after: int, *, shared: bool) -> float:
    """Operations of one clip: the language model forward and, its weights frozen, once more backward, the head on the
    answer, the encoder too where it is trained; the start of a batch in every clip or, `shared`, once a batch."""
    width, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    own, start = TOKENS + after + 1, before / measured.at_once if shared else before
    token = 2 * (4 * width**2 + 3 * width * inner)
    keys = sum(range(before + 1, before + own + 1)) + start * before / 2
    text = TEXT["num_hidden_layers"] * ((own + start) * token + 4 * width * keys)
    head = 2 * width * TEXT["vocab_size"]
    return 2 * (text + head + (encoder_flop(POOLED.trimmed_frames(SAMPLE_RATE_HZ)) if measured.encoder else 0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=["original", *ROWS], default=["original", *ROWS])
    parser.add_argument("--where", action="store_true", help="also where the time of our rows goes")
    given = parser.parse_args()
    rank = int(os.environ.get("LOCAL_RANK", 0))
    devices = int(os.environ.get("WORLD_SIZE", 1))
    torch.cuda.set_device(rank)
    processor, started = tiny.make_processor(), time.perf_counter()
    prompt = family.tokenise_prompt(processor, PROMPTS[0])
    before, after = len(prompt.before), len(prompt.after)
    peak, bandwidth = measured_peak()
    flac = make_clips(1024, [1000])
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        clips = str(Path(home, "clips.parquet"))
        pq.write_table(pa.Table.from_pylist([
            {"clip_id": f"c{k}", "label": "SPEECH" if k % 2 else "NONSPEECH", "audio": {"bytes": one, "path": f"c{k}.flac"}}
            for k, one in enumerate(flac)
        ]), clips)  # fmt: skip
        for row in given.rows:
            folder = Path(home, row)
            folder.mkdir()
            if row == "original":
                found.append(original(processor, flac))
            else:
                asked = ROWS[row]
                asked = asked._replace(clips_a_step=asked.clips_a_step * devices)
                found.append(ours(asked, processor, clips, folder, watched=given.where))
            gc.collect()
            torch.cuda.empty_cache()
    if rank == 0:
        print(f"{devices} x {torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB: bf16 matrix "
              f"product {peak / 1e12:.0f} TFLOP/s, copy {bandwidth / 1e12:.2f} TB/s")  # fmt: skip
        show(found, before, after, peak * devices, bandwidth)
        print(f"{time.perf_counter() - started:.0f} s in all")


def show(rows: Sequence[Measured], before: int, after: int, peak: float, bandwidth: float) -> None:
    """One line a row: clips/s, ratio to the first, both shares of the peak, clips at once, memory; then the floors."""
    for row in rows:
        plain, packed = (clip_flop(row, before, after, shared=shared) for shared in (False, True))
        print(f"{row.name:56} {row.clips_per_s:7.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x "
              f"{plain * row.clips_per_s / peak:5.2f} {packed * row.clips_per_s / peak:5.2f} of peak, batches of "
              f"{row.at_once:4d}, {row.bytes_peak / 1e9:5.1f} GB")  # fmt: skip
        for line in row.where:
            print(f"    {line}")
    last = max(rows, key=lambda row: row.clips_per_s)
    weights = (
        2
        * TEXT["num_hidden_layers"]
        * (4 * TEXT["hidden_size"] ** 2 + 3 * TEXT["hidden_size"] * TEXT["intermediate_size"])
    )
    print(f"{before} tokens before the audio, {TOKENS} of audio, {after} behind and the answer; floor of the fastest row: "
          f"{peak / clip_flop(last, before, after, shared=True):.0f} clips/s by operations, "
          f"{last.at_once * bandwidth / (2.5 * weights):.0f} by bytes (NF4 weights read, written as bf16 and read, twice "
          f"a batch)")  # fmt: skip


if __name__ == "__main__":
    main()
