"""How long a kernel takes on an H100, by its machine code, without a GPU.

    decode.py   instructions as rows of numbers                 costs.py       what an instruction costs
    trace.py    what a program's threads execute                parameters.py  the modelled GPU's figures
    core.py     when everything happens, clock by clock         state.py       what core.py knows at one moment
    launch.py   all of it, for one launch                       compiled.py    the loops' machine code, kept on disk

docs/simulator.md says what it was compared with, how far to trust it, and what is not modelled.
"""

from .launch import Launch, NotSimulated, Simulated, Traced, simulate, traced
from .parameters import VERSION, Hopper

__all__ = ["Launch", "Hopper", "NotSimulated", "Simulated", "Traced", "VERSION", "simulate", "traced"]
