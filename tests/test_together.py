"""Several processes that train one adapter together end where one process with their whole batch ends."""

import pytest
import torch
from safetensors.torch import load_file

from tasks import child
from tasks.models.jobs import ON_CPU
from tests.adapting import job, write_clips

pytestmark = pytest.mark.slow


def trained(tmp_path, tiny_base, file, launched, name, **changes):
    """Adapter and history of a job in processes of its own."""
    folder = tmp_path / name
    folder.mkdir()
    steps = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-3, **changes}
    told = job(tiny_base, folder, clips=(file,), training=steps, batch_size=4, lora={"r": 4, "lora_dropout": 0.0})
    path = folder.with_suffix(".json")
    path.write_text(told.model_dump_json())
    lines: list[str] = []
    command = child.python(*launched, "-m", "tasks.child", "tasks.models.training", str(path))
    environment = {**ON_CPU, "OMP_NUM_THREADS": "1", "EARSHOT_HOME": str(tmp_path / "home")}
    child.run(child.started(command, environment=environment), what=name, on_line=lines.append, timeout_min=5)
    return load_file(folder / "adapter_model.safetensors"), lines, folder


def test_two_processes_train_as_one_with_twice_the_batch(tiny_base, tmp_path):
    file = write_clips(tmp_path / "train.parquet")
    one, alone, _ = trained(tmp_path, tiny_base, file, (), "alone", per_device_train_batch_size=4)
    launched = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--no-python", child.python()[0])
    two, together, folder = trained(tmp_path, tiny_base, file, launched, "together", per_device_train_batch_size=2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-3)
    losses = [[line.partition(", lr")[0] for line in lines if line.startswith("step ")] for lines in (alone, together)]
    assert losses[0] == losses[1]
    assert "2 clips a batch, 1 batches a step, 2 processes" in together
    assert sum(line.startswith("trainable parameters") for line in together) == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "training.json"
    ]  # fmt: skip
