"""How adapters come about: what `train:` may say. An unknown key, or a value of another type, is an error."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from recipes.block import Block, Count, Kwargs, Seed, Unit, distinct, is_pinned
from recipes.library_keys import accepted_keys, members, refuse_impossible, refuse_unknown, refuse_unnamed

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LORA: dict[str, Kwargs | None] = {
    "attention": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ATTENTION},
    "attention+mlp": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": [*ATTENTION, *MLP]},
    "none": None,
}
QUANTIZATION: dict[str, Kwargs | None] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8bit": {"load_in_8bit": True},
    "none": None,
}


def _any_steps(steps: int) -> int:
    if steps == 0:
        raise ValueError("0 steps train nothing; leave it out to train by epochs")
    return steps


Above0 = Annotated[float, Field(gt=0)]
From0 = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
LORA_RANGES: dict[str, Any] = {"r": Count, "lora_alpha": Above0, "lora_dropout": Below1}
TRAINING_RANGES: dict[str, Any] = {
    "learning_rate": Above0, "num_train_epochs": Above0,
    "max_steps": Annotated[int, Field(ge=-1), AfterValidator(_any_steps)],  # -1: as many as the epochs have
    "per_device_train_batch_size": Count | Literal["auto"], "per_device_eval_batch_size": Count,
    "gradient_accumulation_steps": Count, "warmup_steps": From0, "weight_decay": From0, "max_grad_norm": From0,
    "adam_beta1": Below1, "adam_beta2": Below1, "adam_epsilon": Above0,
    "logging_steps": Above0, "eval_steps": Above0, "save_steps": Above0,
}  # fmt: skip


def named(presets: Mapping[str, Kwargs | None]) -> BeforeValidator:
    """A block may be said by the name of a preset."""

    def read(given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if given not in presets:
            raise ValueError(
                f"{given!r} is no preset; there are {', '.join(presets)}, or give the keywords themselves"
            )
        return presets[given]

    return BeforeValidator(read)


class PretrainBlock(Block):
    """How the tiny base learns to hear at all: clean, long clips of training groups only."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    clips: int = Field(800, ge=2)  # cut anew from the training recordings, balanced over classes and groups
    duration_ms: float = Field(1000, ge=100, le=30_000)
    seed: Seed = 1


class GateBlock(Block):
    """The restricted A/B accuracy on train that a finished adapter must reach; the loss alone tells too little."""

    accuracy: Unit = 0.85  # share of training clips answered right
    on_fail: Literal["stop", "mark"] = "stop"  # mark: go on, and say so in report and card


class LossBlock(Block):
    """What is made of the log-probability of a labelled token."""

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = Field(2.0, ge=0, le=10)  # of focal (Lin et al. 2017): 0 is the cross-entropy
    class_weight: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)  # class -> factor, default 1


class SpecAugmentBlock(Block):
    """Stretches of time and bands of mel bins set to the clip's mean (Park et al. 2019), over its valid frames only."""

    p: Unit = 0.5  # of a clip to be touched in an epoch
    time_share: Unit = 0.05  # of its valid frames, the longest stretch
    mel_bins: int = Field(10, ge=0, le=128)  # the widest band
    time_masks: int = Field(1, ge=0, le=10)
    mel_masks: int = Field(1, ge=0, le=10)


class NoiseBlock(Block):
    """Noise drawn anew for every clip and epoch and added at a drawn SNR: Gaussian, or other training clips of the second
    class. Never a clip of dev or test, and none of the first class: labels stay true where the second class is what has
    nothing of the first, as NONSPEECH has no speech."""

    p: Unit = 0.5
    snr_db: tuple[float, float] = (0.0, 20.0)  # drawn evenly between the two, against the clip as it is
    kind: Literal["white", "pink", "clips"] = "white"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db {list(self.snr_db)}: the lower one comes first")
        return self


class AugmentBlock(Block):
    """What happens to training clips, anew in every epoch; the encoder then hears every clip in every step."""

    spec_augment: SpecAugmentBlock | None = None
    noise: NoiseBlock | None = None

    def __bool__(self) -> bool:
        return bool(self.spec_augment or self.noise)


class EarlyStoppingBlock(Block):
    """Stop where the loss on dev has not fallen for so many evaluations, and keep the best. dev then chose the weights."""

    patience: int = Field(3, ge=1)  # evaluations without a lower loss
    min_delta: float = Field(0.0, ge=0)  # by which it must fall to count, in nats
    every_steps: int = Field(50, ge=1)  # dev is heard


class TrainMethod(Block):
    """How one adapter comes about. `lora`, `quantization`, `training` are the libraries' own keywords."""

    base: str = "tiny"  # "tiny", a Hub id with its revision ("Qwen/Qwen2-Audio-7B-Instruct@<40 hex>"), or a folder
    quantization: Annotated[Kwargs | None, named(QUANTIZATION)] = None  # transformers.BitsAndBytesConfig, or nf4, 8bit
    # peft.LoraConfig, or attention, attention+mlp; none: every parameter in scope is trained
    lora: Annotated[Kwargs | None, named(LORA)] = Field(default_factory=lambda: dict(LORA["attention"] or {}))
    # where the adapter lies; with language_model the encoder is frozen and hears each clip once
    scope: Literal["language_model", "language_model+encoder"] = "language_model"
    training: Kwargs = Field(default_factory=dict)  # trl.SFTConfig; per_device_train_batch_size may be `auto`
    batch_size: Count | None = None  # clips a step sees over all devices and accumulated batches
    memory_gb: float | None = Field(None, gt=0)  # of each GPU, at most
    gpus: Count | Literal["all"] = 1  # that train one adapter together, by DDP; seeds and folds go side by side
    # the answer token; with the end of its turn; the prompt as well
    loss_on: Literal["answer", "turn", "sequence"] = "answer"
    loss: Annotated[LossBlock, BeforeValidator(lambda given: {"kind": given} if isinstance(given, str) else given)] = (
        LossBlock()
    )
    augment: AugmentBlock = AugmentBlock()
    # factor -> level -> how much oftener than 1 its clips are drawn, e.g. {duration_ms: {200: 3}}
    sampling: dict[str, dict[str | float, Annotated[float, Field(ge=0)]]] = Field(default_factory=dict)
    max_audio_ms: float | None = Field(None, ge=25)  # longer training clips are cut to their beginning
    early_stopping: EarlyStoppingBlock | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("base")
    @classmethod
    def _pinned(cls, base: str) -> str:
        is_path = base == "tiny" or base.startswith((".", "/", "~"))
        # a name alone is that of a folder in a recipe that was published
        if not is_path and not is_pinned(base) and not re.fullmatch(r"[^/]+@[0-9a-f]{40}", base):
            raise ValueError(
                f"{base!r} is neither `tiny`, nor a folder, nor a Hub id with its revision: NAMESPACE/NAME@<40 hex digits>"
            )
        return base

    @field_validator("lora")
    @classmethod
    def _lora(cls, given: Kwargs | None) -> Kwargs | None:
        bases = (
            ("config.py", "PeftConfigMixin"),
            ("config.py", "PeftConfig"),
            ("tuners/lora/config.py", "LoraConfig"),
        )
        owned = dict.fromkeys(("exclude_modules", "task_type"), "`scope` decides it")
        refuse_unknown("lora", given or {}, accepted_keys("peft", *bases), owned)
        refuse_impossible("lora", given or {}, LORA_RANGES)
        return given

    @field_validator("quantization")
    @classmethod
    def _quantization(cls, given: Kwargs | None) -> Kwargs | None:
        file = "utils/quantization_config.py"
        owned = {"llm_int8_skip_modules": "the encoder, projector and head are always left unquantised"}
        refuse_unknown("quantization", given or {}, accepted_keys("transformers", (file, "BitsAndBytesConfig")), owned)
        return given

    @field_validator("training")
    @classmethod
    def _training(cls, given: Kwargs) -> Kwargs:
        owned = {
            "seed": "use `seeds`", "data_seed": "use `seeds`", "output_dir": "the store decides it",
            "push_to_hub": "use `publish` of the study", "hub_token": "tokens come from the environment only",
            "max_length": "audio tokens are never cut", "dataset_kwargs": "the collator decides it",
            "remove_unused_columns": "the collator decides it", "use_cpu": "use `device`",
            "label_smoothing_factor": "use `loss`", "loss_type": "use `loss`",
            "logging_nan_inf_filter": "a loss that is no number always stops the run",
            "packing": "batches are packed always", "padding_free": "batches are packed always",
            "resume_from_checkpoint": "a killed run goes on by itself", "auto_find_batch_size": "use "
            "per_device_train_batch_size: auto",
        }  # fmt: skip
        sft = (("trainer/base_config.py", "_BaseConfig"), ("trainer/sft_config.py", "SFTConfig"))
        accepted = {
            **accepted_keys("transformers", ("training_args.py", "TrainingArguments")), **accepted_keys("trl", *sft)
        }  # fmt: skip
        size = {"per_device_train_batch_size"} if given.get("per_device_train_batch_size") == "auto" else set()
        refuse_unknown("training", {key: value for key, value in given.items() if key not in size}, accepted, owned)
        refuse_impossible("training", given, TRAINING_RANGES)
        refuse_unnamed("training", given, "optim", members("transformers", "training_args.py", "OptimizerNames"))
        schedules = members("transformers", "trainer_utils.py", "SchedulerType")
        refuse_unnamed("training", given, "lr_scheduler_type", schedules)
        return given

    @field_validator("sampling", mode="before")
    @classmethod
    def _null_is_a_level(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {
            factor: {"null" if level is None else level: weight for level, weight in weights.items()}
            if isinstance(weights, Mapping)
            else weights
            for factor, weights in given.items()
        }

    @field_validator("sampling")
    @classmethod
    def _sampled(cls, given: dict[str, Any]) -> dict[str, Any]:
        for factor, weights in given.items():
            if not weights or not any(weights.values()):
                raise ValueError(f"sampling.{factor} gives no level a weight above 0")
        return given

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        auto = self.training.get("per_device_train_batch_size", 0) in ("auto", None)
        if "gradient_accumulation_steps" in self.training and (auto or self.batch_size):
            raise ValueError(
                "training.gradient_accumulation_steps follows from batch_size, the clips a step sees, where that or "
                "per_device_train_batch_size: auto is given; leave it out"
            )
        decided = {"eval_strategy", "save_strategy", "eval_steps", "save_steps"} & {*self.training}
        if self.early_stopping and decided:
            raise ValueError(
                f"training.{min(decided)}: early_stopping.every_steps decides when dev is heard; leave it out"
            )
        if self.hears_dev and self.gpus != 1:
            raise ValueError(
                "several GPUs hear some clips of dev twice to have batches alike, which its loss would count: set gpus=1, "
                "or leave out early_stopping and training.eval_strategy"
            )
        if self.lora is None and self.quantization:
            raise ValueError(
                "lora none trains every parameter, which 4 or 8 bits do not allow; set quantization=none, or lora=attention"
            )
        return self

    @property
    def hears_dev(self) -> bool:
        """Whether the loss on dev is watched while training."""
        return bool(self.early_stopping) or self.training.get("eval_strategy", "no") not in ("no", None)


class TrainRecipe(TrainMethod):
    """Adapters by one method over several seeds, each past the gate."""

    name: str
    pretrain: PretrainBlock = PretrainBlock()  # read where base is tiny
    gate: GateBlock = GateBlock()
    seeds: Annotated[tuple[Seed, ...], AfterValidator(distinct)] = (42,)  # the first is published; none: no adapter
    timeout_min: float = Field(240, gt=0)  # of one training

    @property
    def method(self) -> TrainMethod:
        """What the weights of an adapter depend on, beside seed and data."""
        return TrainMethod(**{name: getattr(self, name) for name in TrainMethod.model_fields})
