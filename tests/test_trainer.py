"""The loss at the labelled positions is the model's own loss, and so are its gradients; batches share a step out evenly."""

import contextlib

import pytest
import torch
from trl import SFTConfig

from tasks.models import batch_size, family
from tasks.models.aside import FewWords, encoder_aside, few_words
from tasks.models.batch_size import Batches, TooLarge, candidates, fastest
from tasks.models.collation import IGNORED
from tasks.models.packing import packed_rows
from tasks.models.scope import unfreeze
from tasks.models.trainer import AnswerTrainer, defaults, fit, operations
from tasks.models.training import encode_once, read_clips, to_train
from tasks.store import read_json, write_json
from tests import tiny_omni
from tests.adapting import NF4, collator, fresh, job, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return read_clips([write_clips(tmp_path_factory.mktemp("clips") / "train.parquet")])


def trainer_of(model, processor, clips, collate, folder, **settings) -> AnswerTrainer:
    given = {**defaults("cpu", quantised=False), "output_dir": str(folder), "use_cpu": True, "max_length": None,
             "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, **settings}  # fmt: skip
    return AnswerTrainer(
        model=model, args=SFTConfig(**given), train_dataset=clips, data_collator=collate, processing_class=processor,
        answer_ids=collate.answer_ids,
    )  # fmt: skip


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own_loss(model, collate, rows) -> torch.Tensor:
    """transformers' loss over every position, from the two-dimensional mask, in one batch."""
    completions = [collate.completions[collate.labels[row]] for row in rows]
    plain = family.collate([collate.clips[row] for row in rows], collate.prompt, completions, collate.pad)
    counted = plain["input_ids"].clone()
    for labels, mask in zip(counted, plain["attention_mask"], strict=True):
        ids = labels[mask == 1].tolist()
        labels[mask == 0] = IGNORED
        labels[mask == 1] = torch.tensor(collate.labels_of(ids))
    return model(**plain, labels=counted).loss


@pytest.mark.parametrize("loss_on", ["answer", "turn", "sequence"])
@pytest.mark.parametrize("quantization", [None, NF4], ids=["plain", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_loss_and_gradients_are_the_models_own(
    tiny_base, processor, clips, tmp_path, loss_on, quantization, checkpointing
):
    """Over accumulated batches of unlike lengths against one batch of all rows."""
    rows, told = list(range(8)), job(tiny_base, tmp_path, quantization=quantization, scope="language_model+encoder")
    collate = collator(processor, clips, loss_on)
    model = to_train(fresh(tiny_base, quantization), told)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    trainer = trainer_of(model, processor, clips, collate, tmp_path)
    model.train()
    expected = own_loss(model, collate, rows)
    expected.backward()
    theirs = gradients(model)
    model.zero_grad()
    if checkpointing:
        model.activation_checkpointing_enable()
    parts = [collate([{"row": row} for row in some]) for some in (rows[:3], rows[3:])]
    items = sum((part["labels"][:, 1:] != IGNORED).sum() for part in parts)
    with packed_rows(model.get_base_model().model.language_model):
        losses = [trainer.compute_loss(model, part, num_items_in_batch=items) for part in parts]
        sum(losses).backward()
    assert float(sum(losses)) == pytest.approx(float(expected), rel=1e-6 if quantization is None else 1e-3)
    ours = gradients(model)
    assert ours.keys() == theirs.keys()
    assert any("audio_tower" in name for name in ours)
    for name, gradient in theirs.items():  # adapters of a quantised base are bf16, and so are their gradients
        close = 1e-4 if quantization is None else 2e-2
        assert (ours[name] - gradient).norm() <= close * gradient.norm() + 1e-7, name
    assert trainer.seen["train"].all == 8


def test_the_head_sees_the_labelled_positions_and_no_others(tiny_base, processor, clips, tmp_path):
    collate, model = collator(processor, clips), fresh(tiny_base)
    trainer, widths = trainer_of(model, processor, clips, collate, tmp_path), []
    model.lm_head.register_forward_hook(lambda _, hidden, logits: widths.append(tuple(logits.shape)))
    with packed_rows(model.model.language_model):
        trainer.compute_loss(model, collate([{"row": row} for row in range(8)]))
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert widths == [(8, model.config.text_config.vocab_size), (1, 3, model.config.text_config.vocab_size)]


def test_the_share_of_right_answers_is_among_the_allowed_ones(tiny_base, processor, clips, tmp_path):
    """A token that is likelier than either answer, and a variant of the answer, do not count against it."""
    collate, model = collator(processor, clips), fresh(tiny_base)
    trainer = trainer_of(model, processor, clips, collate, tmp_path)
    a, spaced, b = *collate.answer_ids["A"], collate.answer_ids["B"][0]
    logits = torch.zeros(3, model.config.text_config.vocab_size)
    logits[:, 0] = 9
    logits[0, spaced], logits[1, b], logits[2, a] = 5, 5, 5
    trainer.seen["train"].count(logits, torch.tensor([a, b, b]), trainer.answer_ids, torch.tensor(3.0), 3)
    assert trainer.seen["train"].share(trainer.accelerator) == pytest.approx(2 / 3)
    assert trainer.seen["train"].share(trainer.accelerator) is None


def test_a_packed_batch_holds_no_token_twice(processor, clips):
    collate = collator(processor, clips)
    before, after = len(collate.prompt.before), len(collate.prompt.after) + 1
    batch = collate([{"row": row} for row in (0, 5, 7)])  # 25, 200 and 200 ms
    assert batch["input_ids"].shape == (1, before + 3 * after + 1 + 5 + 5)
    assert batch["layout"] == (3, after + 5, before)
    assert batch["places"].tolist() == [*range(after + 1), *range(after + 5, 3 * (after + 5))]
    assert batch["position_ids"][0, :before].tolist() == list(range(before))
    assert batch["position_ids"][0, before : before + after + 1].tolist() == list(range(before, before + after + 1))
    assert "places" not in collate([{"row": row} for row in (5, 6, 7)])


def test_a_frozen_encoder_is_out_of_the_way_while_encoded_clips_train(tiny_base, processor, clips, tmp_path, home):
    encoded = encode_once(fresh(tiny_base), processor, clips)
    told = job(tiny_base, tmp_path, training={"max_steps": 2, "per_device_train_batch_size": 4})
    collate, ends = collator(processor, clips, encoded=encoded), []
    for aside in (True, False):
        model = to_train(fresh(tiny_base), told)
        tower = model.get_base_model().model.audio_tower
        with encoder_aside(model) if aside else contextlib.nullcontext():
            assert any("audio_tower" in name for name, _ in model.named_parameters()) != aside
            fit(model, processor, clips, collate, told.training, seed=1, output=told.output, device="cpu")
        assert model.get_base_model().model.audio_tower is tower
        ends.append({name: value for name, value in model.state_dict().items() if "lora_" in name})
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


def test_a_model_that_knows_the_words_of_the_study_alone_trains_alike(tiny_base, processor, clips, tmp_path):
    told = job(tiny_base, tmp_path, training={"max_steps": 2, "per_device_train_batch_size": 4})
    collate, ends = collator(processor, clips, "turn"), []
    for few in (True, False):
        model = to_train(fresh(tiny_base), told)
        whole = model.get_base_model().model.language_model.embed_tokens
        with few_words(model, sorted(collate.tokens)) if few else contextlib.nullcontext():
            fit(model, processor, clips, collate, told.training, seed=1, output=told.output, device="cpu")
        assert model.get_base_model().model.language_model.embed_tokens is whole
        ends.append({name: value for name, value in model.state_dict().items() if "lora_" in name})
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


def test_an_embedding_whose_weights_the_head_shares_stays_where_it_is(tiny_base):
    """Moved aside, it would take the head with it."""
    model = fresh(tiny_base).requires_grad_(False)
    text = model.model.language_model
    with few_words(model, [3, 5]):
        assert isinstance(text.embed_tokens, FewWords)
    model.lm_head.weight = text.embed_tokens.weight
    with few_words(model, [3, 5]):
        assert isinstance(text.embed_tokens, torch.nn.Embedding)


def test_a_word_that_is_not_kept_is_an_error(tiny_base):
    words = FewWords(fresh(tiny_base).get_input_embeddings(), [3, 5])
    assert torch.equal(
        words(torch.tensor([[5, 3, 5]])), fresh(tiny_base).get_input_embeddings()(torch.tensor([[5, 3, 5]]))
    )
    with pytest.raises(IndexError):
        words(torch.tensor([[4]]))


def test_operations_are_two_a_weight_on_each_way_and_two_more_where_it_is_trained(tiny_base, tmp_path):
    plain = fresh(tiny_base)
    layers = plain.model.language_model.layers
    weights = sum(p.numel() for name, p in layers.named_parameters() if "proj.weight" in name)
    text = plain.config.get_text_config()
    frozen = operations(unfreeze(plain, "language_model").requires_grad_(False))
    assert frozen == (4 * weights, 4 * text.vocab_size * text.hidden_size)
    assert operations(plain.requires_grad_(True))[0] == 6 * weights
    adapted = to_train(fresh(tiny_base), job(tiny_base, tmp_path))
    lora = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert operations(adapted)[0] == 4 * weights + 6 * lora


def test_operations_of_experts_are_those_a_token_meets_and_their_routers():
    model = tiny_omni.make_model(tiny_omni.QWEN3, tiny_omni.make_processor(tiny_omni.QWEN3), seed=0)
    layers = dict(model.requires_grad_(False).model.language_model.layers.named_parameters())
    experts = sum(its.numel() for its in layers.values() if its.ndim == 3)
    others = sum(its.numel() for its in layers.values() if its.ndim == 2)
    assert any(name.endswith("mlp.gate.weight") for name in layers)
    assert operations(model)[0] == 4 * (others + experts * 2 / 8)


# --- batches -----------------------------------------------------------------------------------------------------


def test_sizes_that_are_tried_divide_the_step():
    assert candidates(256) == [8, 16, 32, 64, 128, 256]
    assert candidates(96) == [8, 12, 24, 48, 96]
    assert candidates(4) == [4]
    assert candidates(17) == [17]


def speeds(fits: int, full_at: int):
    """A device on which so many clips fit, and which more than `full_at` make no faster."""

    def clips_per_s(size: int) -> float:
        if size > fits:
            raise TooLarge
        return float(min(size, full_at))

    return clips_per_s


@pytest.mark.parametrize(
    ("most", "fits", "full_at", "found"),
    [(256, 100, 1000, 64), (256, 1000, 32, 32), (16, 1000, 1000, 16), (17, 16, 1000, 1), (16, 3, 1000, 2)],
)
def test_the_fastest_size_that_fits_is_taken(most, fits, full_at, found):
    assert fastest(most, speeds(fits, full_at)) == found


def test_a_clip_that_does_not_fit_alone_fits_nowhere():
    with pytest.raises(TooLarge):
        fastest(16, speeds(0, 1))


@pytest.mark.parametrize(
    ("per_device", "a_step", "size", "accumulation"), [("auto", 8, 8, 1), (None, 24, 12, 2), (2, 8, 2, 4)]
)
def test_a_step_sees_what_the_recipe_says(
    tiny_base, processor, clips, tmp_path, per_device, a_step, size, accumulation
):
    """On a CPU without a trial, which would make no two runs alike."""
    collate = collator(processor, clips)
    trainer = trainer_of(fresh(tiny_base), processor, clips, collate, tmp_path,
                         per_device_train_batch_size=per_device if isinstance(per_device, int) else 1)  # fmt: skip
    batch_size.share_out(trainer, collate, Batches.of({"per_device_train_batch_size": per_device}, a_step))
    assert (trainer._train_batch_size, trainer.args.gradient_accumulation_steps) == (size, accumulation)


def test_a_run_that_goes_on_has_the_batches_it_had_unless_other_hardware_found_them(
    tiny_base, processor, clips, tmp_path
):
    collate, kept = collator(processor, clips), tmp_path / "kept" / "batch_size.json"
    trainer = trainer_of(fresh(tiny_base), processor, clips, collate, tmp_path)
    auto, here = Batches.of({"per_device_train_batch_size": "auto"}, 12), {"processes": 1, "card": "cpu"}
    for known, expected in (
        (None, 12),
        ({"size": 6}, 6),
        ({"size": 6, "processes": 2}, 12),
        ({"size": 64, "card": "B"}, 12),
    ):
        if known:
            write_json(kept, {**here, **known})
        batch_size.share_out(trainer, collate, auto, kept)
        assert trainer._train_batch_size == expected
        assert read_json(kept) == {"size": expected, **here}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_step_that_batches_do_not_divide_is_refused(tiny_base, processor, clips, tmp_path):
    collate = collator(processor, clips)
    trainer = trainer_of(fresh(tiny_base), processor, clips, collate, tmp_path, per_device_train_batch_size=3)
    with pytest.raises(ValueError, match=r"8 clips are no multiple of 1 x training.per_device_train_batch_size = 3"):
        batch_size.share_out(trainer, collate, Batches.of({"per_device_train_batch_size": 3}, 8))
