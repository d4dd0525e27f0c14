"""What `train:` may say: presets, values of the right type, keys that go together; and the presets there are."""

import pytest

from recipes.reading import RECIPES, read_yaml
from recipes.training import ATTENTION, MLP, TrainMethod, TrainRecipe

QWEN = ("qwen2-audio-attention", "qwen2-audio-attention-mlp", "qwen2-audio-language-model", "qwen2-audio-large-data")


@pytest.mark.parametrize("name", QWEN)
def test_presets_of_the_7_b_model_are_whole_and_open_with_what_they_cost(name):
    recipe = TrainRecipe.model_validate(read_yaml(f"train/{name}"))
    assert recipe.base.startswith("Qwen/Qwen2-Audio-7B-Instruct@")
    assert recipe.seeds == (42, 123, 456, 789, 2024)
    lora = recipe.lora
    assert lora is not None
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (16, 32, 0.05)
    head = (RECIPES / "train" / f"{name}.yaml").read_text().partition("\nname:")[0]
    assert "# Cost: " in head
    assert "iffers from " in head


def test_the_planned_schedule_for_larger_data():
    recipe = TrainRecipe.model_validate(read_yaml("train/qwen2-audio-large-data"))
    asked = {"num_train_epochs": 5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "warmup_steps": 100,
             "lr_scheduler_type": "cosine", "eval_steps": 50}  # fmt: skip
    assert asked.items() <= recipe.training.items()
    assert recipe.hears_dev
    assert recipe.augment.spec_augment is not None
    assert not recipe.augment.noise


def test_presets_of_lora_and_quantisation_are_the_keywords_they_stand_for():
    assert TrainMethod(lora="attention").lora == TrainMethod().lora
    assert TrainMethod(lora="attention+mlp").lora["target_modules"] == [*ATTENTION, *MLP]
    assert TrainMethod(lora="none").lora is None
    assert TrainMethod(quantization="nf4").quantization == {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert TrainMethod(quantization="8bit").quantization == {"load_in_8bit": True}
    assert TrainMethod(loss="focal").loss.kind == "focal"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"training": {"learning_rate": "2e-4"}}, "'2e-4' is text to YAML, which wants 2.0e-4 for the number"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate: 'fast' is not a number"),
        ({"training": {"max_steps": 2.5}}, "training.max_steps: 2.5 is not a whole number"),
        ({"training": {"max_steps": True}}, "training.max_steps: True is not a whole number"),
        ({"training": {"gradient_checkpointing": "yes"}}, "'yes' is not true or false"),
        ({"training": {"per_device_train_batch_size": "many"}}, "'many' is not a whole number"),
        ({"training": {"per_device_train_batch_size": 0}}, "should be greater than or equal to 1, got 0"),
        ({"training": {"learning_rate": -1.0}}, "training.learning_rate: Input should be greater than 0, got -1.0"),
        ({"training": {"num_train_epochs": -1}}, "training.num_train_epochs: Input should be greater than 0, got -1"),
        ({"training": {"max_steps": 0}}, "training.max_steps: 0 steps train nothing; leave it out to train by epochs"),
        ({"training": {"lr_scheduler_type": "cosin"}}, "there is no 'cosin'; did you mean cosine"),
        ({"training": {"optim": "sgdd"}}, "training.optim: there is no 'sgdd'; did you mean sgd"),
        ({"training": {"optim": "mine"}}, "training.optim: there is no 'mine'; there are adamw_torch, "),
        ({"lora": {"r": 0}}, "lora.r: Input should be greater than or equal to 1, got 0"),
        ({"lora": {"lora_dropout": 1.5}}, "lora.lora_dropout: Input should be less than 1, got 1.5"),
        ({"training": {"label_smoothing_factor": 0.1}}, "use `loss`"),
        ({"training": {"resume_from_checkpoint": "x"}}, "a killed run goes on by itself"),
        ({"lora": {"r": "8"}}, "lora.r: '8' is not a whole number"),
        ({"lora": "everything"}, "'everything' is no preset; there are attention, attention+mlp, none"),
        ({"quantization": "int3"}, "'int3' is no preset; there are nf4, 8bit, none"),
        ({"lora": "none", "quantization": "nf4"}, "lora none trains every parameter, which 4 or 8 bits do not allow"),
        ({"batch_size": 16, "training": {"gradient_accumulation_steps": 2}}, "follows from batch_size"),
        ({"early_stopping": {}, "training": {"eval_steps": 5}}, "training.eval_steps: early_stopping.every_steps decides"),
        ({"early_stopping": {}, "gpus": 2}, "several GPUs hear some clips of dev twice"),
        ({"sampling": {"duration_ms": {200: 0}}}, "sampling.duration_ms gives no level a weight above 0"),
        ({"augment": {"noise": {"snr_db": [10, 0]}}}, "the lower one comes first"),
        ({"loss": {"kind": "focal", "gamma": -1}}, "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_way_out(given, said):
    with pytest.raises(ValueError, match=r"^") as refused:
        TrainMethod(**given)
    assert said in str(refused.value)


def test_values_that_libraries_take_in_several_types_are_taken():
    method = TrainMethod(
        training={"learning_rate": 1, "per_device_train_batch_size": "auto", "report_to": "none", "optim": "adamw_torch",
                  "lr_scheduler_kwargs": {}, "warmup_steps": 0.1, "accelerator_config": {"non_blocking": True}},
        lora={"target_modules": "all-linear", "bias": "none", "rank_pattern": {"q_proj": 4}},
    )  # fmt: skip
    assert method.training["warmup_steps"] == 0.1
    assert method.training["per_device_train_batch_size"] == "auto"
    assert method.lora["rank_pattern"] == {"q_proj": 4}
