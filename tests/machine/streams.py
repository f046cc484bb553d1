"""Hand-made instruction streams for the simulator: text as nvdisasm prints it, and control codes."""

from tricnn.machine.sass import Instruction, Parameters, instructions
from tricnn.machine.simulator import Launch

BASE = 0x210


def assembled(*lines: str) -> list[Instruction]:
    """Each line is ``stall text``, or ``stall w<scoreboard written> r<read> b<mask waited for> text``; a line that ends
    with a colon is a label."""
    text, code, at = [], b"", 0
    for line in lines:
        if line.endswith(":"):
            text.append(line)
            continue
        control = {"w": 7, "r": 7, "b": 0}
        stall, *words = line.split()
        while words[0][0] in control and words[0][1:].isdigit():
            word = words.pop(0)
            control[word[0]] = int(word[1:])
        text.append(f"/*{at:04x}*/ {' '.join(words)} ;")
        bits = int(stall) | control["w"] << 5 | control["r"] << 8 | control["b"] << 11
        code += (bits << 105).to_bytes(16, "little")
        at += 16
    return instructions("\n".join(text), code)


def launch(*lines: str, warps: int = 4, programs: int = 1, shared: int = 0, arguments: dict | None = None) -> Launch:
    """A launch of a stream, that ends with EXIT, with numbers as arguments."""
    values = arguments or {}
    places = tuple((4 * i, 4) for i in range(len(values)))
    signature = dict.fromkeys(values, "i32")
    code = assembled(*lines, "1 EXIT")
    return Launch(code, Parameters(BASE, places), (programs, 1, 1), warps, 32, shared, signature, values)
