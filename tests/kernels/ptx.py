"""Runs PTX on the CPU: the first block of threads, side by side, branches only forward, as small kernels use it.

What Triton's interpreter computes is not always what a GPU does, and no GPU is needed to see it: the instructions of
the compiled kernel say so. Their meaning is that of the PTX ISA (9.7.1 to 9.7.9); approximations (ex2, rsqrt,
div.full) are computed in float64 and rounded. A thread that branches does nothing until the label.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

LINE = re.compile(r"^\s+(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s+(.*?);", re.MULTILINE)
STEP = re.compile(rf"{LINE.pattern}|^(\$\w+):", re.MULTILINE)  # an instruction, or a label
NUMPY = {"f32": np.float32, "s32": np.int32, "u32": np.uint32, "b32": np.uint32, "s64": np.int64, "u64": np.uint64,
         "b64": np.uint64, "u16": np.uint16, "s16": np.int16, "b16": np.uint16, "u8": np.uint8, "b8": np.uint8,
         "pred": np.bool_, "f16": np.float16}  # fmt: skip


def instructions(ptx: str) -> list[str]:
    """The names of the instructions that compute, without what moves, addresses and returns."""
    found = [name for _, _, name, _ in LINE.findall(ptx)]
    return [n for n in found if not re.match(r"(ld|st|mov|ret|cvta|mul\.wide|mad\.wide|add\.s64|and\.b32|shl)\b", n)]


class Threads:
    """A block of threads that runs a kernel's PTX; ``memory`` is one array of bytes, addresses are places in it."""

    def __init__(self, ptx: str, threads: int, arguments: list[int], memory: np.ndarray):
        self.threads, self.memory, self.registers = threads, memory, dict[str, np.ndarray]()
        self.shared = np.zeros(1 << 16, np.uint8)  # threads run side by side, so no barrier is needed
        names = re.findall(r"\.param [^,)]*?(\w+_param_\d+)", ptx)
        self.parameters = dict(zip(names, arguments))
        body = ptx[ptx.index("{", ptx.index(".entry")) :]
        running, waiting, passed = np.ones(threads, bool), dict[str, np.ndarray](), set[str]()
        for negated, guard, name, operands, label in STEP.findall(body):
            if label:
                running = running | waiting.pop(label, np.zeros(threads, bool))
                passed.add(label)
                continue
            active = running & (self.registers[guard] ^ bool(negated)) if guard else running
            if name.split(".")[0] == "bra":
                assert operands not in passed, f"a branch back to {operands}"
                waiting[operands] = waiting.get(operands, np.zeros(threads, bool)) | active
                running = running & ~active
                continue
            with np.errstate(all="ignore"):
                self.run(name.split("."), self.operands(operands), active)

    @staticmethod
    def operands(text: str) -> list[str]:
        return [x.strip() for x in re.findall(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*)", text)]

    def value(self, operand: str, kind: str) -> np.ndarray:
        """An operand's bits as a type."""
        type_ = np.dtype(NUMPY[kind])
        if operand == "global_smem" or operand.startswith("%ctaid"):  # where shared memory begins; which block it is
            return np.zeros(self.threads, type_)
        if operand == "%tid.x":
            return np.arange(self.threads, dtype=type_)
        if operand.startswith("{"):  # two halves, the lower one first
            low, high = (self.value(x.strip(), "u16").astype(np.uint32) for x in operand[1:-1].split(","))
            return (low | high << 16).view(type_)
        if operand.startswith("%"):
            bits = self.registers[operand]
            if bits.itemsize == type_.itemsize:
                return bits.view(type_)
            return bits.view(f"u{bits.itemsize}").astype(f"u{type_.itemsize}").view(type_)
        if operand.startswith("0f"):
            number: Any = np.array(int(operand[2:], 16), np.uint32).view(np.float32)
        else:
            number = np.array(int(operand, 0)).astype(f"u{type_.itemsize}").view(type_)
        return np.full(self.threads, number).view(type_)

    def put(self, operand: str, x: np.ndarray, active: np.ndarray) -> None:
        if operand.startswith("{"):
            low, high = (y.strip() for y in operand[1:-1].split(","))
            bits = x.view(np.uint32)
            self.put(low, (bits & 0xFFFF).astype(np.uint16), active)
            self.put(high, (bits >> 16).astype(np.uint16), active)
        elif operand in self.registers and not active.all():
            self.registers[operand] = np.where(active, x, self.registers[operand].view(x.dtype))
        elif operand != "_":
            self.registers[operand] = x

    def addresses(self, operand: str) -> np.ndarray:
        base, _, offset = operand.strip("[] ").partition("+")
        return (self.value(base.strip(), "s64") + int(offset or 0)).astype(np.int64)

    def run(self, name: list[str], operands: list[str], active: np.ndarray) -> None:
        op, kind = name[0], name[-1]
        if op in ("ret", "bar", "barrier"):
            return
        if op == "ld" and name[1] == "param":
            parameter = self.parameters[operands[1].strip("[]")]
            self.put(operands[0], np.full(self.threads, parameter, NUMPY[kind]), active)
        elif op in ("ld", "st"):
            size, where = np.dtype(NUMPY[kind]).itemsize, self.addresses(operands[op == "ld"])
            memory = self.shared if "shared" in name else self.memory
            registers = [x.strip() for x in operands[op == "st"].strip("{}").split(",")]
            for i, register in enumerate(registers):
                places = where[:, None] + i * size + np.arange(size)
                if op == "ld":
                    known = memory[np.where(active[:, None], places, 0)]
                    self.put(register, known.view(NUMPY[kind])[:, 0], active)
                else:
                    memory[places[active]] = self.value(register, kind)[active, None].view(np.uint8)
        elif op == "shfl":
            register, _, valid = operands[0].partition("|")
            lane, other = np.arange(self.threads), self.value(operands[2], "s32")
            source = {"bfly": lane ^ other, "idx": lane & ~31 | other & 31}[name[2]]
            self.put(register, self.value(operands[1], "b32")[source], active)
            self.put(valid or "_", np.ones(self.threads, bool), active)
        elif op == "setp":
            a, b = self.value(operands[1], kind), self.value(operands[2], kind)
            self.put(operands[0], COMPARE[name[1]](a, b), active)
        elif op == "selp":
            chosen = self.value(operands[3], "pred")
            self.put(
                operands[0], np.where(chosen, self.value(operands[1], kind), self.value(operands[2], kind)), active
            )
        elif op == "cvt":
            x = self.value(operands[1], "b16" if kind == "bf16" else kind)
            self.put(operands[0], convert(name, x), active)
        elif op in ("mul", "mad") and name[1] == "wide":
            a, b = (self.value(x, kind).astype(kind[0].replace("s", "i") + "8") for x in operands[1:3])
            self.put(operands[0], a * b + (self.value(operands[3], f"{kind[0]}64") if op == "mad" else 0), active)
        else:
            known = OPERATIONS[".".join(x for x in name[:-1] if x not in ("rn", "ftz", "lo"))]
            values = [self.value(x, "u32" if op in ("shl", "shr") and i else kind) for i, x in enumerate(operands[1:])]
            result = flushed(known, *values) if "ftz" in name else known(*values)
            self.put(operands[0], np.asarray(result).astype(NUMPY[kind]), active)


def convert(name: list[str], x: np.ndarray) -> np.ndarray:
    """cvt: to bf16, half and from them, between integers, and from integers to fp32."""
    to, of = name[-2:]
    if to == "bf16":
        bits = x.view(np.uint32)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), 0x7FFF, nearest).astype(np.uint16)
    if of == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    if to == "f16":
        return x.astype(np.float16).view(np.uint16)
    return x.astype(NUMPY[to])


COMPARE: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "ne": lambda a, b: (a < b) | (a > b) if a.dtype.kind == "f" else a != b,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
    "equ": lambda a, b: ~((a < b) | (a > b)), "neu": np.not_equal, "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "lo": np.less, "hi": np.greater, "ls": np.less_equal, "hs": np.greater_equal,
}  # fmt: skip


def _wide(f: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """In float64, rounded once."""
    return lambda *x: np.asarray(f(*(v.astype(np.float64) for v in x)))


def flushed(f: Callable[..., np.ndarray], *operands: np.ndarray) -> np.ndarray:
    """The same where subnormal operands and results are 0."""

    def flush(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x)

    return flush(f(*map(flush, operands)))


def _truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = a.astype(np.int64), b.astype(np.int64)
    return np.sign(wide[0]) * np.sign(wide[1]) * (np.abs(wide[0]) // np.abs(wide[1]))


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "mov": lambda a: a, "cvta.to.global": lambda a: a, "not": lambda a: ~a, "neg": lambda a: -a, "abs": np.abs,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shl": np.left_shift, "shr": np.right_shift,
    "bfe": lambda a, first, count: (a >> first) & ((1 << count) - 1),
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "mad": lambda a, b, c: a * b + c,
    "fma": _wide(lambda a, b, c: a * b + c),
    "max": lambda a, b: np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b),
    "min": lambda a, b: np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b),
    "max.NaN": np.maximum, "min.NaN": np.minimum,
    "div": _truncated, "rem": lambda a, b: a - b * _truncated(a, b).astype(a.dtype),
    "div.full": _wide(np.divide), "ex2.approx": _wide(np.exp2), "rsqrt.approx": _wide(lambda a: 1 / np.sqrt(a)),
    "sqrt": _wide(np.sqrt),
}  # fmt: skip
