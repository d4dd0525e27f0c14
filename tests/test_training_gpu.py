"""On a GPU: a step asks the card nothing, its loss is a CPU's, a trial finds the batch, frozen parts leave the card."""

import contextlib
import re

import pytest
import torch

from tasks.models import family
from tasks.models.aside import encoder_aside, few_words
from tasks.models.batch_size import by_trial
from tasks.models.packing import packed_rows
from tasks.models.trainer import AnswerTrainer, defaults, fit
from tasks.models.training import encode_once, read_clips, to_train
from tests.adapting import NF4, collator, job, write_clips

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
SCOPES = ["language_model", "language_model+encoder"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return read_clips([write_clips(tmp_path_factory.mktemp("clips") / "train.parquet")])


def loaded(tiny_base, dtype, device, quantization=None):
    return family.load(tiny_base, revision=None, quantization=quantization, dtype=dtype, device=device)


def trainer_of(model, processor, clips, collate, folder, device="cuda", **settings) -> AnswerTrainer:
    from trl import SFTConfig

    given = {**defaults(device, quantised=True), "output_dir": str(folder), "max_length": None, "use_cpu": device == "cpu",
             "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, **settings}  # fmt: skip
    return AnswerTrainer(model=model, args=SFTConfig(**given), train_dataset=clips, data_collator=collate,
                         processing_class=processor, answer_ids=collate.answer_ids)  # fmt: skip


@contextlib.contextmanager
def questions_forbidden():
    """Inside, whatever keeps Python waiting for the card raises RuntimeError, backward passes included."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class AsksInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient.nonzero()
        return gradient


def test_a_question_in_a_backward_pass_is_found_too():
    """The thread that walks backward is another one."""
    value = torch.ones(3, device="cuda", requires_grad=True)
    total = AsksInBackward.apply(value).sum()
    with questions_forbidden(), pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        total.backward()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("quantization", [None, NF4], ids=["plain", "nf4"])
def test_a_step_asks_the_gpu_nothing(tiny_base, processor, clips, tmp_path, home, scope, quantization):
    """Any question would keep the card waiting for Python at every step: CUDA is told to make one an error."""
    base = loaded(tiny_base, torch.bfloat16, "cuda", quantization)
    encoded = encode_once(base, processor, clips) if scope == "language_model" else None
    model = to_train(base, job(tiny_base, tmp_path, scope=scope, quantization=quantization))
    collate = collator(processor, clips, encoded=encoded)
    trainer = trainer_of(model, processor, clips, collate, tmp_path)
    batch = trainer._prepare_inputs(collate([{"row": row} for row in range(8)]))
    model.train()
    with packed_rows(model.get_base_model().model.language_model):
        trainer.compute_loss(model, dict(batch)).backward()
        with questions_forbidden():
            loss = trainer.compute_loss(model, dict(batch))
            loss.backward()
            with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
                loss.item()  # a question, which the same mode does not let pass
    assert torch.isfinite(loss)


@pytest.mark.parametrize("rows", [(0, 3, 7, 2), (5, 6, 7)], ids=["mixed", "alike"])
def test_the_loss_is_that_of_a_cpu(tiny_base, processor, clips, tmp_path, rows):
    losses = []
    for device in ("cpu", "cuda"):
        model = loaded(tiny_base, torch.float32, device)
        collate = collator(processor, clips)
        trainer = trainer_of(model, processor, clips, collate, tmp_path, device=device, tf32=False)
        with packed_rows(model.model.language_model), torch.no_grad():
            batch = trainer._prepare_inputs(collate([{"row": row} for row in rows]))
            losses.append(float(trainer.compute_loss(model.eval(), batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trial_finds_the_batch(tiny_base, processor, clips, tmp_path, capsys, checkpointing):
    training = {"per_device_train_batch_size": "auto", "max_steps": 2, "logging_steps": 1,
                "gradient_checkpointing": checkpointing}  # fmt: skip
    model = to_train(loaded(tiny_base, torch.bfloat16, "cuda", NF4), job(tiny_base, tmp_path, quantization=NF4))
    log = fit(model, processor, clips, collator(processor, clips), training, seed=1, output=str(tmp_path / "out"),
              device="cuda", batch_size=64)  # fmt: skip
    said = capsys.readouterr().out
    assert "trial: 8 clips a batch" in said
    found = re.search(r"^(\d+) clips a batch, (\d+) batches a step, 1 processes$", said, re.MULTILINE)
    assert found is not None
    assert int(found[1]) * int(found[2]) == 64
    assert [entry["step"] for entry in log] == [1, 2]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trial_leaves_nothing_behind(tiny_base, processor, clips, tmp_path, checkpointing):
    """Dropout draws random numbers in it, and its largest batch is the peak that the log would tell as the run's."""
    told = job(tiny_base, tmp_path, quantization=NF4, lora={"r": 4, "lora_dropout": 0.3})
    model, collate = to_train(loaded(tiny_base, torch.bfloat16, "cuda", NF4), told), collator(processor, clips)
    trainer = trainer_of(model, processor, clips, collate, tmp_path, gradient_checkpointing=checkpointing)
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    with packed_rows(model.get_base_model().model.language_model):
        by_trial(trainer, collate, 64)
    assert torch.cuda.max_memory_allocated() <= 1.01 * torch.cuda.memory_allocated()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (trainer.clips, trainer.flops, trainer.seen["train"].right) == (0, 0.0, None)


def test_frozen_parts_leave_the_card(tiny_base, processor, clips, home):
    model = loaded(tiny_base, torch.bfloat16, "cuda")
    before = torch.cuda.memory_allocated()
    collate = collator(processor, clips)
    with encoder_aside(model), few_words(model, sorted(collate.tokens)):
        assert torch.cuda.memory_allocated() < before
        assert model.device.type == "cuda"
    assert model.model.language_model.embed_tokens.weight.device.type == "cuda"
