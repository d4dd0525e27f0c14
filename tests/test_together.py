"""Several processes that train one adapter together end where one process with their whole batch ends, and save as one."""

import pytest
import torch
from safetensors.torch import load_file

from tasks import child
from tasks.models.checkpoints import last_whole
from tasks.models.jobs import ON_CPU
from tasks.store import read_json
from tests.adapting import job, write_clips

pytestmark = pytest.mark.slow


def together_by(*program):
    """The beginning of a command line that runs a Python program in two processes."""
    return ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--no-python", child.python()[0], *program)


def trained(tmp_path, tiny_base, file, launched, name, checkpoints=None, **changes):
    """Adapter, lines and folder of a job in processes of its own."""
    folder = tmp_path / name
    folder.mkdir()
    steps = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-3, **changes}
    told = job(tiny_base, folder, clips=(file,), training=steps, batch_size=4, lora={"r": 4, "lora_dropout": 0.0},
               checkpoints=checkpoints)  # fmt: skip
    path = folder.with_suffix(".json")
    path.write_text(told.model_dump_json())
    lines: list[str] = []
    command = child.python(*(launched or ("-m", "tasks.child", "tasks.models.training")), str(path))
    environment = {**ON_CPU, "OMP_NUM_THREADS": "1", "EARSHOT_HOME": str(tmp_path / "home")}
    child.run(child.started(command, environment=environment), what=name, on_line=lines.append, timeout_min=5)
    return load_file(folder / "adapter_model.safetensors"), lines, folder


def test_two_processes_train_as_one_with_twice_the_batch(tiny_base, tmp_path):
    file = write_clips(tmp_path / "train.parquet")
    one, alone, _ = trained(tmp_path, tiny_base, file, (), "alone", per_device_train_batch_size=4)
    launched = together_by("-m", "tasks.child", "tasks.models.training")
    two, together, folder = trained(tmp_path, tiny_base, file, launched, "together", per_device_train_batch_size=2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-3)
    losses = [[line.partition(", lr")[0] for line in lines if line.startswith("step ")] for lines in (alone, together)]
    assert losses[0] == losses[1]
    assert together.count("2 clips a batch, 1 batches a step, 2 processes") == 1
    assert sum(line.startswith("trainable parameters") for line in together) == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "training.json"
    ]  # fmt: skip


CLOCKS_APART = """
import sys

from accelerate import PartialState

from tasks.models import trainer, training

known = trainer.SaveNowAndThen
trainer.SaveNowAndThen = lambda: known(1e9 if PartialState().process_index else 0.0)
training.main(sys.argv[1])
"""


def test_the_first_clock_decides_for_all_when_to_save(tiny_base, tmp_path):
    """A process that saves waits for the others: it would wait for ever where their clocks had not struck yet."""
    file, program, kept = write_clips(tmp_path / "train.parquet"), tmp_path / "apart.py", tmp_path / "kept"
    program.write_text(CLOCKS_APART)
    launched = together_by(str(program))
    trained(tmp_path, tiny_base, file, launched, "apart", per_device_train_batch_size="auto", checkpoints=str(kept))
    saved = last_whole(kept)
    assert saved is not None
    assert saved.endswith("checkpoint-3")
    assert read_json(kept / "batch_size.json") == {"size": 2, "processes": 2, "card": "cpu"}
