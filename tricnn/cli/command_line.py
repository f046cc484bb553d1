"""The parser, and what every command has in common: errors as one line, exit statuses, broken pipes, signals."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from .arguments import UsageError

#: command -> what it does, in a few words; each is a module of this folder with ``add_arguments`` and ``run``
COMMANDS = {
    "list": "the architectures, with parameters and multiply-adds",
    "show": "a network layer by layer, with totals",
    "compile": "a network to GPU kernels; the GPU need not be there",
    "explain": "what was fused, what was not, and why",
    "verify": "every compiled kernel against float64 NumPy",
    "train": "a network on a data set of images",
    "tune": "the fastest tiles for the GPU at hand, into a file",
    "bench": "fused, unfused and PyTorch, side by side",
    "report": "what the compiler did, as one page for a browser",
    "export": "a network and its weights as an ONNX file",
}

INTERNAL_ERROR = 70  # EX_SOFTWARE: neither the input's fault nor an answer

EXAMPLES = """\
examples:
  tricnn list                                            what there is
  tricnn show resnet18 --batch 32                        its layers, their shapes and costs
  tricnn compile lenet --mode train --target sm_90       its kernels for an H100, without one
  tricnn explain lenet --mode train                      which layers share a kernel, and why others do not
  tricnn verify lenet                                    do those kernels compute the right numbers?
  tricnn train lenet --data digits --out out/digits      98 % of handwritten digits in about a minute
  tricnn bench lenet                                     how fast it is here
  tricnn report lenet --mode train --out lenet.html      its kernels, edges and bytes as a page

MODEL is an architecture of `tricnn list`, a file (a graph as text, .onnx), or package.module:factory (an nn.Module).
`tricnn COMMAND --help` has the options and more examples. With --json a command prints one JSON object.
exit status: 0 done; 1 what was asked is not so (a kernel fails verification); 2 bad input; 130 or 143 interrupted.
"""


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt it passes whatever catches errors, and files half-written are taken away."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line (see :func:`guarded`)."""

    def __init__(self, *arguments: Any, **options: Any):
        fixed = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*arguments, **{**fixed, **options})

    def error(self, message: str) -> NoReturn:
        where = f"{self.prog}: " if " " in self.prog else ""
        raise UsageError(f"{where}{message} (see: {self.prog} --help)".removeprefix("tricnn "))


def run(argv: Sequence[str] | None = None) -> int:
    """Parse and run one command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: dispatch(arguments))


def guarded(work: Callable[[], int]) -> int:
    """Every way out of ``work`` as an exit status."""
    formatted = warnings.formatwarning
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (for a stream that the caller closed)
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that has no γ shows a ? rather than a traceback
    warnings.formatwarning = lambda message, *_, **__: f"tricnn: warning: {one_line(str(message))}\n"
    try:
        with sigterm_raised():
            status = work()
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # `tricnn list | head -1`: as if the signal had ended us
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        print("tricnn: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print("tricnn: terminated", file=sys.stderr)
        return 143
    except Exception as error:
        return fail(error)
    finally:
        warnings.formatwarning = formatted


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """A context in which SIGTERM is an exception, as Python does with SIGINT.
    Only the main thread may ask for it; in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def dispatch(arguments: list[str]) -> int:
    """The command that the first word names."""
    if sys.platform == "win32":
        raise UsageError("tricnn runs on Linux; on Windows, inside WSL 2 (see the README)")
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "help"):
        if first == "help" and len(arguments) > 1:
            return dispatch([arguments[1], "--help"])
        top_parser().print_help()
        return 0
    if first in ("-V", "--version"):
        from tricnn import __version__

        print(f"tricnn {__version__}")
        return 0
    if first not in COMMANDS:
        if first.startswith("-"):
            raise UsageError(f"the command comes first: tricnn COMMAND {first} ...; commands: {', '.join(COMMANDS)}")
        near = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown command {first!r}{hint} (commands: {', '.join(COMMANDS)})")
    module = import_module(f".{first}_command", __package__)
    try:
        options = parsed(first, arguments[1:])
    except SystemExit as end:  # --help
        return int(end.code or 0)
    if getattr(options, "tuned", None) is None:
        return int(module.run(options))
    from tricnn.machine import tuned_files as tuning

    with tuning.using(options.tuned):
        return int(module.run(options))


def parsed(command: str, arguments: list[str]) -> argparse.Namespace:
    """The options of a command. Raises UsageError for those that it does not have."""
    module = import_module(f".{command}_command", __package__)
    parser = Parser(prog=f"tricnn {command}", description=module.__doc__, epilog=module.EXAMPLES)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    return parser.parse_args(module.expanded(arguments, parser) if hasattr(module, "expanded") else arguments)


def top_parser() -> Parser:
    commands = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    parser = Parser(
        prog="tricnn",
        usage="tricnn COMMAND ...",
        description="Convolutional networks compiled to fused, readable Triton kernels, forward and backward.\n\n"
        f"commands:\n{commands}",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


def fail(error: Exception) -> int:
    """One line for whatever went wrong."""
    if os.environ.get("TRICNN_DEBUG"):
        raise error
    status, text = 2, str(error)
    if hasattr(error, "exit_status"):  # UsageError, TrainingInterrupted
        status = error.exit_status
    elif (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    ):
        text = "not enough memory for this; a smaller --batch or --input may fit"
    elif isinstance(error, OSError):
        text = f"{error.filename or 'output'}: {error.strerror or error}"
    elif "tricnn.system.errors" not in sys.modules or not isinstance(
        error, sys.modules["tricnn.system.errors"].TricnnError
    ):
        status = INTERNAL_ERROR
        text = f"internal error, please report it (TRICNN_DEBUG=1 shows where): {type(error).__name__}: {text}"
    if not getattr(error, "said", False):
        print(f"tricnn: error: {one_line(text)}", file=sys.stderr)
    return int(status)


def one_line(text: str) -> str:
    """``text`` printable, without line breaks, and not long, whatever was in a file's name."""
    from tricnn.system.limits import LARGEST_MESSAGE

    if len(text) > LARGEST_MESSAGE:
        kept = LARGEST_MESSAGE // 2 - 20
        text = f"{text[:kept]} [{len(text) - 2 * kept} characters] {text[-kept:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
