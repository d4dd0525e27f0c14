"""What a recipe may ask of a training: its loss, what clips go through, which are drawn, when it stops, what is trained;
and that a killed training ends as an unbroken one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from recipes.training import AugmentBlock, EarlyStoppingBlock, LossBlock, NoiseBlock, SpecAugmentBlock
from tasks.models import devices, family, trainer, training
from tasks.models.adapted import with_adapter
from tasks.models.checkpoints import had_ended, last_whole
from tasks.models.collation import Collator
from tasks.models.trainer import AnswerTrainer, fit
from tasks.models.training import cut_clips, parted, read_clips, refuse_one_sided, to_train, weights_of
from tests.adapting import ANSWERS, PROMPT, collator, fresh, job, write_clips


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(devices, "CPU_THREADS", 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips") / "train.parquet")


@pytest.fixture(scope="module")
def clips(file):
    return read_clips([file])


def run(folder: Path, file: str, tiny_base, **changes) -> Path:
    """The output folder of a whole job."""
    folder.mkdir()
    steps = {"max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 2, "learning_rate": 1e-2}
    told = job(tiny_base, folder, **{"clips": (file,), "training": steps, **changes})
    path = folder.with_suffix(".json")
    path.write_text(told.model_dump_json())
    training.main(str(path))
    return folder


# --- loss, augmentation, sampling --------------------------------------------------------------------------------


def test_the_loss_of_a_recipe_is_what_is_trained(tiny_base, processor, clips, tmp_path):
    """Focal with a class weight, against the formula."""
    told = job(tiny_base, tmp_path, training={"max_steps": 1, "per_device_train_batch_size": 8, "logging_steps": 1})
    block = LossBlock(kind="focal", gamma=2, class_weight={"SPEECH": 3.0})
    collate = Collator(processor, clips, PROMPT, ANSWERS, "answer", class_weight=block.class_weight)
    model = to_train(fresh(tiny_base), told)
    with torch.inference_mode():
        logits = family.last_logits(model.get_base_model().eval(), collate.prompts(range(8)))
    answers = torch.tensor([collate.completions[label][0] for label in collate.labels])
    p = logits.softmax(-1)[torch.arange(8), answers]
    weight = torch.tensor([3.0 if label == "SPEECH" else 1.0 for label in collate.labels])
    (entry,) = fit(
        model, processor, clips, collate, told.training, seed=1, output=told.output, device="cpu", loss=block
    )
    assert entry["loss"] == pytest.approx(float((-((1 - p) ** 2) * p.log() * weight).mean()), abs=1e-5)


def augmenting(processor, clips, block: AugmentBlock, seed=1) -> Collator:
    return Collator(processor, clips, PROMPT, ANSWERS, "answer", augment=block, seed=seed)


ALL = AugmentBlock(
    spec_augment=SpecAugmentBlock(p=1, mel_bins=60, time_share=0.5),
    noise=NoiseBlock(p=1, snr_db=(5, 5), kind="pink"),
)


def test_every_epoch_hears_clips_anew_and_the_same_epoch_the_same(processor, clips):
    collate, again, other = (augmenting(processor, clips, ALL, seed) for seed in (1, 1, 2))
    rows = [{"row": row} for row in range(8)]
    first, same, another = (its(rows)["input_features"] for its in (collate, again, other))
    collate.epoch = 1
    later = collate(rows)["input_features"]
    assert torch.equal(first, same)
    assert not torch.equal(first, another)
    assert not torch.equal(first, later)
    plain = augmenting(processor, clips, AugmentBlock()).prompts(range(8))
    assert torch.equal(collate.prompts(range(8))["input_features"], plain["input_features"])


def test_dev_is_heard_as_it_is(processor, clips):
    plain, augmented = collator(processor, clips), augmenting(processor, clips, ALL)
    rows = [{"row": row, "dev": True} for row in range(8)]
    assert torch.equal(plain(rows)["input_features"], augmented(rows)["input_features"])


BEHIND = AugmentBlock(noise=NoiseBlock(p=1, snr_db=(0, 10), kind="clips"))


def test_noise_of_other_clips_is_of_the_second_class_of_train_and_of_no_other_clip(processor, clips, monkeypatch):
    """No speech behind speech, nothing of dev, no clip behind itself, and none that ends before it if it can be."""
    train, heard = range(6), set()
    noises = training.rows_of_class(clips.select(train), "NONSPEECH")
    assert noises == [0, 2, 4]
    collate = Collator(processor, clips, PROMPT, ANSWERS, "answer", augment=BEHIND, noises=noises, seed=1)
    known = collate.augmented.another

    def another(row, n, draw):
        found = known(row, n, draw)
        heard.add((row, found))
        return found

    monkeypatch.setattr(collate.augmented, "another", another)
    for collate.epoch in range(8):
        assert collate([{"row": row} for row in train])["input_features"].isfinite().all()
    assert heard == {(0, 2), (0, 4), (1, 2), (1, 4), (2, 4), (3, 4), (4, 2), (5, 4)}


def test_noise_of_other_clips_takes_two_of_them(processor, clips):
    with pytest.raises(ValueError, match=r"1 training clips are of the second class and two are needed; set augment"):
        Collator(processor, clips, PROMPT, ANSWERS, "answer", augment=BEHIND, noises=[0])


@pytest.mark.slow
def test_noise_of_other_clips_never_comes_from_dev(tiny_base, file, tmp_path, home):
    """Other clips in dev, the same adapter."""
    other = write_clips(tmp_path / "other.parquet", (100, 200, 300))
    steps = {"max_steps": 4, "per_device_train_batch_size": 4, "eval_strategy": "epoch"}
    one, two = (
        run(tmp_path / name, file, tiny_base, dev=(dev,), augment=BEHIND, training=steps) / "adapter_model.safetensors"
        for name, dev in (("one", file), ("two", other))
    )
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_frozen_encoder_hears_augmented_clips_in_every_step(tiny_base, file, tmp_path, home, monkeypatch):
    monkeypatch.setattr(training, "encode_once", None)
    plain = load_file(
        run(tmp_path / "plain", file, tiny_base, scope="language_model+encoder") / "adapter_model.safetensors"
    )
    augmented = load_file(run(tmp_path / "augmented", file, tiny_base, augment=ALL) / "adapter_model.safetensors")
    assert not any("audio_tower" in name for name in augmented)
    assert any("audio_tower" in name for name in plain)


def levels(folder: Path, durations_ms) -> str:
    found = [float(its) if its else None for its in durations_ms]
    table = pa.table({"duration_ms": found, "band": ["clean"] * len(found)})
    pq.write_table(table, folder / "levels.parquet")
    return str(folder / "levels.parquet")


def test_weights_of_levels_multiply_over_factors(tmp_path):
    file = levels(tmp_path, (200, 1000, 200, None))
    assert weights_of([file], {"duration_ms": {200: 3, "null": 0.5}, "band": {"clean": 2}}) == [6, 2, 6, 1]
    assert weights_of([file], {}) is None


@pytest.mark.parametrize(
    ("sampling", "said"),
    [({"snr": {1: 2}}, "sampling.snr is no column of the clips; they have duration_ms, band"),
     ({"duration_ms": {300: 2}}, "no training clip has 300; there are 1000, 200"),
     ({"band": {"clean": 0}}, "leaves no training clip a weight above 0")],
)  # fmt: skip
def test_weights_that_no_clip_has_are_refused(tmp_path, sampling, said):
    with pytest.raises(ValueError, match=said):
        weights_of([levels(tmp_path, (200, 1000))], sampling)


def test_rows_are_drawn_by_their_weights_anew_in_every_epoch(tiny_base, processor, clips, tmp_path):
    from trl import SFTConfig

    from tasks.models.trainer import defaults

    given = {"output_dir": str(tmp_path), "use_cpu": True, "max_length": None, "remove_unused_columns": False,
             "dataset_kwargs": {"skip_prepare_dataset": True}, "seed": 5}  # fmt: skip
    args = SFTConfig(**{**defaults("cpu", quantised=False), **given})
    collate = collator(processor, clips)
    trainer = AnswerTrainer(model=fresh(tiny_base), args=args, train_dataset=clips, data_collator=collate,
                            processing_class=processor, answer_ids=collate.answer_ids,
                            row_weights=[0, 0, 1, 0, 0, 0, 3, 0])  # fmt: skip
    sampler = trainer._get_train_sampler()
    drawn = []
    for trainer.epoch in range(200):
        drawn += list(sampler)
    assert set(drawn) == {2, 6}
    assert np.mean(np.array(drawn) == 6) == pytest.approx(0.75, abs=0.03)
    trainer.epoch = 3
    assert list(sampler) == list(sampler)


def test_longer_clips_are_cut_to_their_beginning(clips):
    from tasks.audio_files import decode_flac

    cut = cut_clips(clips, 60)
    before, after = (decode_flac(its[7]["audio"]["bytes"]) for its in (clips, cut))
    assert after.tolist() == before[:960].tolist()
    assert cut[0]["audio"]["bytes"] == clips[0]["audio"]["bytes"]
    assert list(cut["row"]) == list(range(8))
    assert cut_clips(clips, None) is clips


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sampling": {"duration": {200: 2}}}, "sampling.duration is no column"),
     ({"question": {"classes": ("SPEECH", "MUSIC"), "answers": ("A", "B"), "prompt": PROMPT, "longest_ms": 200}},
      "no training clip is MUSIC")],
)  # fmt: skip
def test_what_clips_do_not_have_is_refused_before_the_base_is_loaded(
    tiny_base, file, tmp_path, home, monkeypatch, changes, said
):
    monkeypatch.setattr(training, "load_base", None)
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "out", file, tiny_base, **changes)


def test_a_class_without_clips_is_refused(clips):
    with pytest.raises(ValueError, match="no training clip is SPEECH"):
        refuse_one_sided(clips.select([0, 2, 4]), ("SPEECH", "NONSPEECH"))
    with pytest.raises(ValueError, match="4 training clips are 'NONSPEECH', the classes are"):
        refuse_one_sided(clips, ("SPEECH",))


# --- dev ---------------------------------------------------------------------------------------------------------


def test_training_stops_when_dev_no_longer_gains_and_keeps_the_best(tiny_base, file, tmp_path, home):
    """A learning rate that ruins the model at once: the first evaluation is the best."""
    steps = {"max_steps": 40, "per_device_train_batch_size": 4, "logging_steps": 4, "learning_rate": 3.0,
             "max_grad_norm": 0.0, "warmup_steps": 2}  # fmt: skip
    block = EarlyStoppingBlock(patience=2, every_steps=2)
    out = run(tmp_path / "out", file, tiny_base, dev=(file,), training=steps, early_stopping=block,
              checkpoints=str(tmp_path / "kept"))  # fmt: skip
    history = json.loads((out / "training.json").read_text())["history"]
    heard = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert max(heard) < 40
    best = min(heard, key=heard.get)
    kept = load_file(tmp_path / "kept" / f"checkpoint-{best:g}" / "adapter_model.safetensors")
    saved = load_file(out / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in saved.items())


def test_the_loss_on_dev_is_the_mean_over_its_clips_however_they_fall_into_batches(
    tiny_base, processor, file, tmp_path
):
    every = read_clips([file, file])
    clips, dev = parted(every, 8)
    collate, found = collator(processor, every), []
    for size in (3, 8):
        training_of = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": size,
                       "learning_rate": 0.0, "per_device_train_batch_size": 8}  # fmt: skip
        model = to_train(fresh(tiny_base), job(tiny_base, tmp_path))
        log = fit(
            model, processor, clips, collate, training_of, seed=1, output=str(tmp_path / "out"), device="cpu", dev=dev
        )
        found.append(log[-1])
    assert found[0]["eval_loss"] == pytest.approx(found[1]["eval_loss"], abs=1e-6)
    assert found[0]["eval_loss"] == pytest.approx(log[0]["loss"], abs=1e-6)
    assert found[0]["eval_mean_token_accuracy"] == found[1]["eval_mean_token_accuracy"]


# --- what is trained ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["language_model", "language_model+encoder"])
def test_without_lora_every_parameter_in_scope_is_trained_and_comes_back(tiny_base, file, tmp_path, home, scope):
    out = run(tmp_path / "out", file, tiny_base, lora=None, scope=scope)
    trained = load_file(out / "model.safetensors")
    assert ("model.audio_tower.conv1.weight" in trained) == (scope != "language_model")
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} <= set(trained)
    assert not any("embed_positions" in name for name in trained)
    before = dict(fresh(tiny_base).named_parameters())
    assert all(not torch.equal(before[name], value) for name, value in trained.items() if "proj.weight" in name)
    again = dict(with_adapter(fresh(tiny_base), out).named_parameters())
    for name, value in again.items():
        assert torch.equal(value, trained.get(name, before[name])), name


@pytest.mark.slow
def test_an_adapter_of_transformers_4_loads_whole(tiny_base, file, tmp_path, home, processor, clips):
    """Under the names of that time half of it would be dropped with a warning."""
    out = run(tmp_path / "out", file, tiny_base, scope="language_model+encoder")
    old = tmp_path / "old"
    shutil.copytree(out, old)
    tensors = load_file(out / "adapter_model.safetensors")
    renamed = {
        "model.model.language_model.": "model.language_model.model.",
        "model.model.audio_tower.": "model.audio_tower.",
    }
    then = {}
    for name, value in tensors.items():
        for now, before in renamed.items():
            name = name.replace(now, before)
        then[name] = value
    assert not then.keys() & tensors.keys()
    save_file(then, old / "adapter_model.safetensors", metadata={"format": "pt"})
    batch = collator(processor, clips).prompts(range(8))
    with torch.inference_mode():
        one, other = (family.last_logits(with_adapter(fresh(tiny_base), its).eval(), batch) for its in (out, old))
        base = family.last_logits(fresh(tiny_base).eval(), batch)
    assert torch.equal(one, other)
    assert not torch.allclose(one, base)
    name, value = then.popitem()
    for changed, said in (
        ({}, "1 of its \\d+ tensors are missing and 0 are"),
        ({name: value, f"{name}.x": value.clone()}, "0 of .* and 1 are"),
    ):
        save_file({**then, **changed}, old / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{said} unknown"):
            with_adapter(fresh(tiny_base), old)


# --- killed and gone on ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """A kill, as far as Python sees it."""


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 5])
@pytest.mark.parametrize("where", ["in a step", "in a save"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    tiny_base, file, tmp_path, home, monkeypatch, killed_at, where
):
    """With augmentation, drawn rows and dropout: every random number is where it would have been."""
    steps = {"max_steps": 6, "per_device_train_batch_size": 3, "logging_steps": 1, "learning_rate": 1e-2, "save_steps": 1,
             "save_strategy": "steps", "gradient_accumulation_steps": 1}  # fmt: skip
    asked = {"training": steps, "lora": {"r": 4, "lora_dropout": 0.3}, "augment": ALL}
    straight = run(tmp_path / "straight", file, tiny_base, **asked, checkpoints=str(tmp_path / "a"))

    name = "training_step" if where == "in a step" else "_save_optimizer_and_scheduler"
    known, calls = getattr(AnswerTrainer, name), []

    def fatal(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == killed_at:
            raise Killed
        return known(self, *arguments, **keywords)

    monkeypatch.setattr(AnswerTrainer, name, fatal)
    with pytest.raises(Killed):
        run(tmp_path / "killed", file, tiny_base, **asked, checkpoints=str(tmp_path / "b"))
    monkeypatch.setattr(AnswerTrainer, name, known)
    before = last_whole(tmp_path / "b")
    assert before is not None
    assert before.endswith(f"checkpoint-{killed_at - 1}")
    resumed = run(tmp_path / "resumed", file, tiny_base, **asked, checkpoints=str(tmp_path / "b"))
    for part in ("adapter_model.safetensors", "training.json"):
        assert (resumed / part).read_bytes() == (straight / part).read_bytes()


def test_the_last_whole_checkpoint_stays_until_the_next_one_is_whole(tiny_base, file, tmp_path, home, monkeypatch):
    """Also where a recipe keeps one alone."""
    known = trainer.mark_whole

    def fatal(path):
        if path.name == "checkpoint-2":
            raise Killed
        known(path)

    monkeypatch.setattr(trainer, "mark_whole", fatal)
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1, "save_total_limit": 1}
    with pytest.raises(Killed):
        run(tmp_path / "killed", file, tiny_base, training=steps, checkpoints=str(tmp_path / "kept"))
    assert sorted(path.name for path in (tmp_path / "kept").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert last_whole(tmp_path / "kept") == str(tmp_path / "kept" / "checkpoint-1")


@pytest.mark.parametrize("state", ['{"stateful_callbacks": {}}', "{", "[]", None])
def test_a_checkpoint_that_does_not_say_whether_training_had_ended_is_named_with_the_way_out(tmp_path, state):
    if state:
        (tmp_path / "trainer_state.json").write_text(state)
    with pytest.raises(ValueError, match=r"trainer_state\.json does not say .*: remove that checkpoint, and"):
        had_ended(str(tmp_path))


@pytest.mark.parametrize("early", [None, EarlyStoppingBlock(patience=2, every_steps=2)], ids=["all steps", "early"])
def test_a_training_that_is_killed_behind_its_last_step_takes_no_step_more(
    tiny_base, file, tmp_path, home, monkeypatch, early
):
    """And counts on from what early stopping had counted; what is logged is logged alike."""
    steps = {"max_steps": 40 if early else 3, "per_device_train_batch_size": 4, "logging_steps": 3, "learning_rate": 3.0,
             "max_grad_norm": 0.0, "warmup_steps": 2}  # fmt: skip
    asked = {"dev": (file,), "early_stopping": early} if early else {}
    steps |= {} if early else {"save_steps": 1}
    straight = run(tmp_path / "straight", file, tiny_base, training=steps, **asked, checkpoints=str(tmp_path / "a"))

    for attempt, name in enumerate(("evaluation_loop" if early else "training_step", "_finalize_training")):
        known, calls = getattr(AnswerTrainer, name), []

        def fatal(self, *arguments, known=known, calls=calls, name=name, **keywords):
            calls.append(1)
            if len(calls) == 3 or name == "_finalize_training":
                raise Killed
            return known(self, *arguments, **keywords)

        monkeypatch.setattr(AnswerTrainer, name, fatal)
        with pytest.raises(Killed):
            run(
                tmp_path / f"killed {attempt}",
                file,
                tiny_base,
                training=steps,
                **asked,
                checkpoints=str(tmp_path / "b"),
            )
        monkeypatch.setattr(AnswerTrainer, name, known)
    resumed = run(tmp_path / "resumed", file, tiny_base, training=steps, **asked, checkpoints=str(tmp_path / "b"))
    for part in ("adapter_model.safetensors", "training.json"):
        assert (resumed / part).read_bytes() == (straight / part).read_bytes()


HELD = """
import sys, time
from tasks.models import training
from tasks.models.trainer import AnswerTrainer

step, begun = AnswerTrainer.training_step, []

def hold(self, *arguments, **keywords):
    begun.append(self.state.global_step)
    if begun[-1] - begun[0] == 12:
        time.sleep(600)
    return step(self, *arguments, **keywords)

AnswerTrainer.training_step = hold
training.main(sys.argv[1])
"""


@pytest.mark.slow
def test_a_training_that_the_kernel_kills_goes_on_to_the_same_bits(tiny_base, file, tmp_path):
    """kill -9 of the process itself, at a random moment, twice: in a step, in a save, wherever it is. For a kill that comes
    late it waits behind the twelfth step it makes."""
    import random
    import signal
    import subprocess
    import threading

    from tasks import child
    from tasks.models.jobs import ON_CPU

    steps = {"max_steps": 30, "per_device_train_batch_size": 3, "logging_steps": 1, "learning_rate": 1e-3, "save_steps": 1,
             "save_strategy": "steps"}  # fmt: skip
    environment = child.environment_of({**ON_CPU, "OMP_NUM_THREADS": "1", "EARSHOT_HOME": str(tmp_path / "home")})
    environment[child.LIFELINE] = ""  # nobody holds a line to these: they end by themselves or are killed

    def started(name: str, kept: str, *program: str) -> subprocess.Popen[str]:
        (tmp_path / name).mkdir()
        told = job(tiny_base, tmp_path / name, clips=(file,), training=steps, checkpoints=str(tmp_path / kept),
                   lora={"r": 4, "lora_dropout": 0.2})  # fmt: skip
        path = tmp_path / f"{name}.json"
        path.write_text(told.model_dump_json())
        command = child.python(*(program or ("-m", "tasks.child", "tasks.models.training")), str(path))
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    straight = started("straight", "a")
    straight.communicate(timeout=600)
    assert straight.returncode == 0
    draw = random.Random()
    for attempt in ("first", "second"):
        process = started(attempt, "b", "-c", HELD)
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("step ")
            if seen == 5:
                threading.Timer(draw.uniform(0, 0.2), process.send_signal, [signal.SIGKILL]).start()
                break
        process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL
    resumed = started("resumed", "b")
    lines = resumed.communicate(timeout=600)[0].splitlines()
    assert resumed.returncode == 0
    assert not any(line.startswith("step 1/") for line in lines), "it went on, it did not begin again"
    for part in ("adapter_model.safetensors", "training.json"):
        assert (tmp_path / "resumed" / part).read_bytes() == (tmp_path / "straight" / part).read_bytes()


@pytest.mark.parametrize("told_by", ["its loss", "its gradient alone"])
def test_a_step_that_ruins_the_model_keeps_the_last_good_checkpoint(
    tiny_base, file, tmp_path, home, monkeypatch, told_by
):
    known, calls = AnswerTrainer.training_step, []

    def ruined(self, *arguments, **keywords):
        loss = known(self, *arguments, **keywords)
        calls.append(1)
        if len(calls) == 3:
            next(p for p in self.model.parameters() if p.requires_grad).grad.fill_(float("nan"))
        return loss

    rate = 1e30 if told_by == "its loss" else 1e-3
    if told_by != "its loss":
        monkeypatch.setattr(AnswerTrainer, "training_step", ruined)
    said = (
        r"the loss is (nan|inf) at step \d+" if told_by == "its loss" else "lora_A.* holds what is no number at step 3"
    )
    steps = {"max_steps": 30, "per_device_train_batch_size": 4, "logging_steps": 50, "learning_rate": rate,
             "save_steps": 1, "max_grad_norm": 0.0, "save_strategy": "steps"}  # fmt: skip
    with pytest.raises(ValueError, match=rf"{said}; lower training\.learning_rate"):
        run(tmp_path / "out", file, tiny_base, training=steps, checkpoints=str(tmp_path / "kept"))
    kept = last_whole(tmp_path / "kept")
    assert kept is not None
    assert all(torch.isfinite(value).all() for value in load_file(Path(kept) / "adapter_model.safetensors").values())


def test_a_last_step_that_ruins_the_weights_leaves_no_adapter(tiny_base, file, tmp_path, home, monkeypatch):
    """Its own loss was still a number."""

    def ruined(self, *arguments, **keywords):
        known(self, *arguments, **keywords)
        next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("nan"))

    known = AnswerTrainer.train
    monkeypatch.setattr(AnswerTrainer, "train", ruined)
    with pytest.raises(ValueError, match="holds what is no number at step 1"):
        run(tmp_path / "out", file, tiny_base, training={"max_steps": 1, "per_device_train_batch_size": 4})
    assert not [*(tmp_path / "out").iterdir()]


def test_no_card_of_trl_and_no_checkpoint_is_left_in_what_is_kept(tiny_base, file, tmp_path, home):
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1}
    out = run(tmp_path / "out", file, tiny_base, training=steps, checkpoints=str(tmp_path / "kept"))
    kept = ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert sorted(path.name for path in out.iterdir()) == kept
    saved = last_whole(tmp_path / "kept")
    assert saved is not None, "save_steps alone asks for checkpoints"
    assert saved.endswith("checkpoint-2")
    assert not [*(tmp_path / "kept").glob("README.md")], "SFTTrainer writes one at every save"


def test_progress_is_told_in_lines_and_in_json(tiny_base, file, tmp_path, home, capsys):
    run(tmp_path / "out", file, tiny_base)
    lines = [json.loads(line) for line in (tmp_path / "out.progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "mean_token_accuracy", "learning_rate", "clips_per_s", "steps"} <= lines[0].keys()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert said[0].startswith("step 2/6: loss ")
    assert "clips/s" in said[0]


def test_what_is_measured_reaches_tensorboard_and_every_run_has_a_folder(
    tiny_base, processor, clips, tmp_path, home, monkeypatch
):
    """Two seeds in one folder would be drawn as one curve that jumps to and fro."""
    told = []

    class Writer:
        def __init__(self, log_dir):
            self.folder = Path(log_dir)

        def add_scalar(self, name, value, step):
            told.append((self.folder, name, step))

        add_text = flush = close = lambda *_: None

    class Board(TensorBoardCallback):
        def __init__(self):
            self._SummaryWriter, self.tb_writer, self.logging_dir = Writer, None, None

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Board)
    steps = {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": ["tensorboard"]}
    for seed in (1, 2):
        model = to_train(fresh(tiny_base), job(tiny_base, tmp_path))
        fit(
            model,
            processor,
            clips,
            collator(processor, clips),
            steps,
            seed=seed,
            output=str(tmp_path / "x"),
            device="cpu",
        )
    assert {folder for folder, _, _ in told} == {home / "tensorboard" / f"adapter-seed-{seed}-x" for seed in (1, 2)}
    names = ("loss", "mean_token_accuracy", "learning_rate", "clips_per_s")
    assert {(f"train/{name}", 1) for name in names} <= {its[1:] for its in told}


@pytest.mark.slow
def test_compiled_layers_train_alike_and_are_as_before_afterwards(tiny_base, processor, clips, tmp_path):
    """By another backend than a GPU's, which needs a C compiler; a recipe names one in the same way."""
    seen, losses = [], []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    for asked in ({}, {"torch_compile_backend": backend}):
        steps = {"max_steps": 2, "per_device_train_batch_size": 3, "logging_steps": 1, "learning_rate": 1e-2}
        model = to_train(fresh(tiny_base), job(tiny_base, tmp_path))
        log = fit(model, processor, clips, collator(processor, clips), {**steps, **asked}, seed=1,
                  output=str(tmp_path / "x"), device="cpu")  # fmt: skip
        losses.append([entry["loss"] for entry in log])
        assert not any(module._compiled_call_impl for module in model.modules())
    assert seen
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
