"""No command is silent for long."""

import io
import time

import pytest
from rich.console import Console

from tricnn.cli.screen import Screen
from tricnn.report.progress import Steps
from tricnn.system import waiting
from tricnn.training.console import Reporter


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SECONDS_BETWEEN_LINES", 0.02)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def until_it_says_something(console: Console) -> None:
    end = time.monotonic() + 30
    while not lines(console) and time.monotonic() < end:
        time.sleep(0.005)


def test_what_takes_long_is_named_and_what_is_quick_is_not(soon: None) -> None:
    console = Console(file=io.StringIO())
    with waiting.Waiting(console, "fusing resnet152"):
        until_it_says_something(console)
    said = lines(console)
    assert said and all(line.startswith("fusing resnet152, 0 s") for line in said)
    waiting.SECONDS_BETWEEN_LINES = 3600
    with waiting.Waiting(console, "fusing lenet"):
        pass
    assert lines(console) == said


def test_steps_say_how_many_are_done(soon: None) -> None:
    console = Console(file=io.StringIO())
    with Steps(console, "compiling", 18, "kernels") as steps:
        steps.done("k00_conv1")
        until_it_says_something(console)
    assert lines(console)[0].startswith("compiling: 1 of 18 kernels, last k00_conv1, 0 s")


def test_training_says_that_the_first_step_is_under_way_and_no_more_after_it(soon: None) -> None:
    console = Console(file=io.StringIO())
    with Reporter(console, epochs=1, steps_per_epoch=2, step=0) as report:
        until_it_says_something(console)
        report.stepped(1, 2.3, 64, 0.1, 0.0)
        said = lines(console)
        time.sleep(0.1)
        assert lines(console) == said and said[0].startswith("first step, ")


def test_it_does_not_stand_in_what_a_command_prints(soon: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=False).waiting("reading resnet18"):
        time.sleep(0.2)
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.startswith("reading resnet18, 0 s")
    with Screen(as_json=True).waiting("reading resnet18"):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")
