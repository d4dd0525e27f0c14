"""The doctor names what is wrong with its way out, stops only on what stops the demo, and tells no secret."""

import contextlib
import http.server
import math
import re
import subprocess
import threading

import pytest
from typer.testing import CliRunner

from flows import cli
from tasks import diagnosis, hub_client
from tasks.diagnosis import constraints, examine, look_at_endpoint, look_at_home, look_at_libraries, look_at_prefect

SECRET = "hf_thisMustNeverBeShown0123456789"


@pytest.fixture(autouse=True)
def plain(home, monkeypatch):
    """No variable of this machine, no GPU, and no look into torch, which takes seconds."""
    for name in ("EARSHOT_CORPUS", "HF_ENDPOINT", "HF_TOKEN", "PREFECT_API_URL", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(diagnosis, "look_at_gpu", lambda: iter(()))


def test_a_sound_machine_has_no_problem_and_the_home_is_not_made(home):
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "problem " not in result.output
    assert "EARSHOT_CORPUS is not set" in result.output
    assert not home.exists()


def test_every_variable_that_a_shipped_data_set_reads_is_listed_set_or_not(monkeypatch, tmp_path):
    read = {name for file in (diagnosis.ROOT / "recipes" / "dataset").glob("*.yaml")
            for name in re.findall(r"\$\{(\w+)\}", file.read_text(encoding="utf-8"))}  # fmt: skip
    assert {"EARSHOT_CORPUS", "ESC50", "GTZAN", "VOXCONVERSE"} <= read
    for name in read:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VOXCONVERSE", str(tmp_path))
    monkeypatch.setenv("ESC50", str(tmp_path / "nowhere"))
    found = {finding.says.split()[0]: finding for finding in diagnosis.look_at_corpora()}
    assert set(found) == read
    assert [name for name, finding in found.items() if finding.state == "ok"] == ["VOXCONVERSE"]
    assert "nowhere, which is no folder: dataset/" in found["ESC50"].says
    assert "MUSAN is not set, study/demo does without; dataset/factorial-1000 and 3 more read" in found["MUSAN"].says
    assert "`earshot fetch musan --root DIR`, then export MUSAN=DIR/musan" in found["MUSAN"].says
    assert "`earshot fetch gtzan` says where it comes from" in found["GTZAN"].says
    assert "dataset/corpus reads a folder of your own recordings, in the layout" in found["EARSHOT_CORPUS"].says


def test_no_secret_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{SECRET}@hub.example/{SECRET}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:{SECRET}@127.0.0.1:9/{SECRET}")
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert "present, not shown" in result.output
    assert "HF_ENDPOINT is no plain address" in result.output
    assert SECRET not in result.output + str(result.exception)
    assert SECRET not in repr(list(examine()))
    for endpoint in (f"https://hub.example/{SECRET}", f"http://hub.example/{SECRET}"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert "hub.example" in look_at_endpoint().says
        assert SECRET not in look_at_endpoint().says


def test_a_problem_ends_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("sys.argv", ["earshot", "doctor"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert "nothing answers at 127.0.0.1:9" in said.out
    assert "unset PREFECT_API_URL" in said.out
    assert "1 problem would stop" in said.err


def test_a_server_that_answers_is_no_problem(monkeypatch):
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        assert look_at_prefect().state == "ok"


def test_a_missing_or_wrong_library_is_a_problem_and_an_untested_one_a_warning(monkeypatch):
    versions = {"numpy": "2.4.99", "torch": None, "prefect": "2.0"}
    monkeypatch.setattr(diagnosis, "installed", versions.get)
    found = {finding.what: finding for finding in look_at_libraries(["numpy>=2.2", "torch==2.13.0", "prefect==3.8.8"])}
    assert found["torch"].state == found["prefect"].state == "problem"
    assert found["prefect"].says.startswith("2.0, needed is ==3.8.8: pip install")
    assert found["libraries"].state == "warning"
    assert "numpy 2.4.99 (tested" in found["libraries"].says


def test_a_build_of_the_tested_version_is_the_tested_version(monkeypatch):
    torch = constraints(diagnosis.ROOT / "constraints.txt")["torch"]
    monkeypatch.setattr(diagnosis, "installed", lambda name: f"{torch}+cpu")
    assert [finding.state for finding in look_at_libraries(["torch"])] == ["ok"]


def test_a_home_that_cannot_be_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "file" / "home"))
    found = look_at_home()
    assert found.state == "problem"
    assert "set EARSHOT_HOME" in found.says


@pytest.mark.parametrize(
    ("endpoint", "state"),
    [
        ("https://hub.example", "ok"),
        ("http://localhost:8000", "ok"),
        ("http://hub.example", "warning"),
        ("hub.example", "warning"),
        ("http://[half", "warning"),
        ("http://localhost.example", "warning"),
        ("https://me:secret@hub.example", "warning"),
        ("http://127.0.0.7:8000", "ok"),
    ],
)
def test_a_token_goes_only_over_https_or_to_this_machine(monkeypatch, endpoint, state):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    found = look_at_endpoint()
    assert found.state == state
    assert "secret" not in found.says
    with contextlib.nullcontext() if state == "ok" else pytest.raises(ValueError, match="HF_ENDPOINT"):
        hub_client.endpoint()  # by which every command that asks the Hub goes


def test_a_gpu_is_named_with_its_memory_and_torch_asked_in_a_child(monkeypatch):
    monkeypatch.undo()
    answers = {"nvidia-smi": "NVIDIA H200, 143771 MiB, 143000 MiB, 570.1\n", "python": "2.13.0 no CUDA False\n"}

    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, answers["nvidia-smi" if "smi" in command[0] else "python"], "")

    monkeypatch.setattr(diagnosis.subprocess, "run", run)
    gpu, cuda = diagnosis.look_at_gpu()
    assert gpu == ("ok", "GPU", "NVIDIA H200, 143771 MiB of memory, 143000 MiB free, driver 570.1")
    assert cuda.state == "warning"
    assert "torch does not see the GPU (2.13.0 no CUDA False); install torch's CUDA build" in cuda.says


def test_what_a_7b_base_takes_on_disk_is_its_parameters_and_what_every_page_says():
    files = [file for kind in ("*.md", "*.yaml") for file in (diagnosis.ROOT / "recipes").rglob(kind)]
    texts = [file.read_text(encoding="utf-8") for file in [diagnosis.ROOT / "README.md", *files]]
    told = [int(gb) for text in texts for gb in re.findall(r"(\d+) GB\s+(?:#\s+)?of\s+disk", text)]
    assert len(told) > 20
    assert {*told} == {diagnosis.DOWNLOAD_GB}
    assert math.ceil(2 * 8.4) == diagnosis.DOWNLOAD_GB  # tests/test_memory.py counts the parameters


def test_a_machine_without_a_gpu_is_warned_not_stopped(monkeypatch):
    monkeypatch.undo()

    def missing(command, **_):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(diagnosis.subprocess, "run", missing)
    assert [finding.state for finding in diagnosis.look_at_gpu()] == ["warning"]
