"""What a shell sees: exit statuses, pipes that close, Ctrl-C; and help that teaches."""

import json
import os
import signal
import subprocess
import sys

import pytest

import tricnn as package
from tricnn.cli.command_line import COMMANDS
from tricnn.system import waiting

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(package.__file__))}
TRICNN = [sys.executable, "-m", "tricnn"]


def test_no_command_teaches(tricnn):
    ran = tricnn()
    assert ran.status == 0 and ran.err == ""
    for name, what in COMMANDS.items():
        assert f"  {name}" in ran.out and what in ran.out
    assert "exit status" in ran.out and "tricnn train lenet --data digits" in ran.out
    assert tricnn("--help").out == tricnn("help").out == ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_examples(tricnn, name):
    ran = tricnn(name, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert f"usage: tricnn {name}" in ran.out and f"examples:\n  tricnn {name}" in ran.out and "--json" in ran.out


def test_version(tricnn):
    assert tricnn("--version").out == f"tricnn {package.__version__}\n"


def test_help_needs_no_numpy_torch_or_triton():
    """Help is quick because it imports next to nothing."""
    code = "import sys; from tricnn.cli import main; main(['compile', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert not {"numpy", "torch", "triton", "networkx"} & set(done.stdout.split())


def test_list_and_show_need_no_torch_or_triton():
    code = (
        "import sys; from tricnn.cli import main; from tricnn.graphs import ARCHITECTURES as all\n"
        "for name in list(all)[3:]: del all[name]  # no more than it takes to print a table\n"
        "main(['list']); main(['show', 'lenet']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert not {"torch", "triton"} & set(done.stdout.split())


def test_statuses_reach_the_shell():
    bad = subprocess.run([*TRICNN, "show", "lenett"], capture_output=True, text=True, env=ENVIRONMENT)
    assert bad.returncode == 2 and bad.stdout == "" and bad.stderr.count("\n") == 1
    assert subprocess.run([*TRICNN, "show", "lenet"], capture_output=True, env=ENVIRONMENT).returncode == 0


def test_a_reader_that_goes_away_ends_the_command_quietly():
    with subprocess.Popen([*TRICNN, "show", "resnet152"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=ENVIRONMENT) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141  # what a shell gives for SIGPIPE


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TRICNN, "show", "lenet"], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_a_bug_of_ours_is_one_line_and_a_status_of_its_own(tricnn, monkeypatch):
    from tricnn.cli import list_command

    def bug(options):
        raise KeyError("x")

    monkeypatch.setattr(list_command, "run", bug)
    ran = tricnn("list")
    assert ran.status == 70 and "KeyError" in ran.err and ran.err.count("\n") == 1
    monkeypatch.setenv("TRICNN_DEBUG", "1")
    with pytest.raises(KeyError):
        tricnn("list")


RUN = ["--data", "digits", "--epochs", "6", "--batch", "64"]


@pytest.mark.parametrize(
    "number, status",
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),  # the loop's own tests have it
    ],
)
def test_a_run_that_is_ended_and_resumed_has_the_bits_of_one_that_was_not(tricnn, tiny, tmp_path, number, status):
    command = ["train", str(tiny), *RUN, "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*TRICNN, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=ENVIRONMENT)  # fmt: skip
    while "epoch 1/" not in process.stderr.readline():  # the first epoch is done
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status and out == "", err
    if number != signal.SIGKILL:
        assert "--resume" in err.splitlines()[-1] and "Traceback" not in err
    resumed = tricnn(*command, "--resume", "--json").json
    assert resumed["state_sha256"] == whole_run(tricnn, tiny)


def whole_run(tricnn, tiny):
    """The hash of a run that nothing stopped."""
    return tricnn("train", tiny, *RUN, "--json").json["state_sha256"]


@pytest.mark.parametrize(
    "number, status, says", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_elsewhere_is_one_line(tmp_path, number, status, says):
    """While kernels compile, which workers do: they must end too, and nothing of what was to be written stay."""
    environment = {**ENVIRONMENT, "TRICNN_CACHE": str(tmp_path / "empty")}
    process = subprocess.Popen(
        [*TRICNN, "compile", "lenet", "--mode", "train", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    process.stderr.readline()  # "compiling ..."
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)  # as `kill` does
    out, err = process.communicate(timeout=300)
    assert process.returncode == status and out == ""
    assert [line for line in err.splitlines() if not line.startswith("compiling ")] == [f"tricnn: {says}"]
    assert not (tmp_path / "out").exists()


def test_a_cache_that_cannot_be_written_is_one_warning(tiny):
    """Kernels are compiled all the same."""
    command, environment = (
        [*TRICNN, "compile", str(tiny), "--dtype", "bf16", "--json"],
        {**ENVIRONMENT, "TRICNN_CACHE": "/dev/null/x"},
    )
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0 and json.loads(ran.stdout)["kernels"]
    assert ran.stderr.startswith("tricnn: warning: kernels are not cached") and ran.stderr.count("\n") == 1


UNDER_WAY = [
    ("compile --dtype bf16 --target sm_90", ("compiling for sm_90: ",)),
    ("verify --mode infer", ("verifying: ",)),
    ("train --data digits --epochs 1", ("tiny: ", "epoch 1/1  loss ")),
    ("bench --batch 2 --seconds 0.1", ("preparing PyTorch",)),
]


@pytest.mark.parametrize("command, said", UNDER_WAY, ids=[command.split()[0] for command, _ in UNDER_WAY])
def test_progress_is_not_among_what_was_asked_for(tricnn, tiny, tmp_path, monkeypatch, command, said):
    """`tricnn compile lenet > table.txt` leaves a table; what is under way is said on standard error."""
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(waiting, "SECONDS_BETWEEN_LINES", 0.001)
    name, *options = command.split()
    ran = tricnn(name, tiny, *options)
    assert ran.status == 0 and ran.out, ran.err
    for words in said:
        assert any(line.startswith(words) for line in ran.err.splitlines()), ran.err
        assert words not in ran.out
    silent = tricnn(name, tiny, *options, "--json")
    assert silent.status == 0 and json.loads(silent.out) and silent.err == ""
