"""The commands of the documentation and of ``--help`` are as they would have to be typed; quick ones are run."""

import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

import tricnn as package
from tricnn.cli.arguments import UsageError
from tricnn.cli.command_line import COMMANDS, parsed

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "tests/README.md", "notebooks/README.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")
)]  # fmt: skip
PROGRAM = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?(tricnn|python|make|torchrun) \S")
#: what stands for something of the reader's
OF_THE_READER = {"MODEL", "mine.txt", "net.onnx", "mynets:Tiny"}
#: seconds or less, in all a few
QUICK = re.compile(
    r"show (?!torchvision|mine)|(explain|report) lenet(?!.*(verify|simulate|compile|machine|bench))|tune .*--dry-run"
)


def commands_of(text: str) -> list[str]:
    """The commands of a page: lines of its blocks, and what stands in the text between backquotes."""
    blocks = re.findall(r"```(?:sh|text)\n(.*?)```", text, re.DOTALL) + re.findall(
        r"(?:^    \S.*\n)+", text, re.MULTILINE
    )
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for line in (*lines, *(" ".join(line.split()) for line in inline)) if PROGRAM.match(line)]


def words_of(line: str) -> list[str]:
    """The program and its arguments: without settings before it, and without a comment, a pipe or a file behind it."""
    words = shlex.split(line, comments=True)
    words = words[: next((at for at, word in enumerate(words) if word in ("|", ">")), len(words))]
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return [Path(words[0]).name, *words[1:]]


def lacks(line: str) -> str:
    """What a command names and is not there."""
    program, *words = words_of(line)
    if program == "torchrun":
        words = words[words.index("-m") :]
        program = "python"
    if program == "python" and words[0] == "-m":
        module, words = words[1], words[2:]
        if find_spec(module) is None:
            return f"no module {module}"
        program = "tricnn" if module == "tricnn" else module
    if program == "tricnn":
        return _of_tricnn(words)
    if program == "make":
        goals = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return ", ".join(f"no goal {word}" for word in words if word not in goals)
    paths = [word for word in words if "/" in word and not word.startswith("out/") and "*" not in word]
    return ", ".join(f"no {path}" for path in paths if not (ROOT / path).exists())


def _of_tricnn(words: list[str]) -> str:
    command, *rest = words
    if command not in COMMANDS:
        return f"no command {command}"
    if not rest or rest == ["--edge"] or "FILE.toml" in rest:
        return ""  # it names the command, or an option
    try:
        options = parsed(command, rest)
    except UsageError as error:
        return str(error)
    model = getattr(options, "model", None)
    known = model is None or model in OF_THE_READER or ":" in model or hasattr(package.graphs, model)
    return "" if known or (ROOT / model).exists() else f"no network {model}"


FOUND = {page: commands_of((ROOT / page).read_text()) for page in PAGES}
FOUND |= {
    f"tricnn {name} --help": [
        re.sub(r"  +.*", "", line.strip())
        for line in importlib.import_module(f"tricnn.cli.{name}_command").EXAMPLES.splitlines()
        if line.startswith("  tricnn ")
    ]
    for name in COMMANDS
}


@pytest.mark.parametrize("page", [page for page, found in FOUND.items() if found])
def test_a_command_names_what_is_there(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes are read
    assert {line: lack for line in FOUND[page] if (lack := lacks(line))} == {}


def test_there_are_commands():
    assert sum(map(len, FOUND.values())) > 150 and len([page for page in FOUND if FOUND[page]]) > 20


@pytest.mark.parametrize(
    "line, lack",
    [("tricnn showw lenet", "no command showw"), ("tricnn show lenet9", "no network lenet9"),
     ("make tests", "no goal tests"), ("python -m benchmarks.none", "no module benchmarks.none"),
     ("python examples/none.py out/x", "no examples/none.py"),
     ("A=1 .venv/bin/tricnn show lenet --bach 3 | head  # x", "show: unrecognized arguments: --bach 3")],
)  # fmt: skip
def test_what_is_not_there_is_seen(line, lack):
    assert lacks(line).startswith(lack)


@pytest.mark.parametrize("line", sorted({
    " ".join(words_of(line)) for found in FOUND.values() for line in found if QUICK.match(" ".join(words_of(line)[1:]))
}))  # fmt: skip
def test_a_quick_command_does_it(line, tricnn):
    ran = tricnn(*words_of(line)[1:])
    assert ran.status == 0 and ran.out and not ran.err
