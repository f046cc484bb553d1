"""How long a kernel will take, from what it moves and what it computes: a roofline with a fixed cost for each launch.

    time = launch + max(bytes / bandwidth, products / matrix rate + forming, arithmetic / vector rate)
    forming = elements loaded * clocks each / (multiprocessors * clock)

What a launch moves comes from the last cache where it fits in there (small batches), else from memory; parameters come
from memory. Arithmetic is what pointwise operations need. Where several programs share a processor, one's arithmetic
runs beside another's products; where there are fewer, they follow one another, and their times add. Fewer programs
than processors leave some idle.

Forming is what tensor cores wait for where an operand is computed as it is loaded: it passes through registers, and the
program that forms it has so many of them that it is alone on its multiprocessor. What that takes is not the arithmetic
but the instructions around it (addresses, masks, conversions, waiting), so it is counted in clocks for each element,
found by simulating the machine code. An element is formed as often as it is loaded: by a 3x3 convolution nine times,
and again for every tile of filters. An operand that is stored comes by bulk copies, or asynchronous ones, and costs its
bytes.

Williams, Waterman, Patterson: Roofline (2009). Rates are those of machine/machines.py: where two
plans are compared the data sheet's, since only their ratios count and not all of them have been measured; for the times
that are shown those that were measured, where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, prod

from ..ir.graph import Graph, Node
from ..ir.table import Kind
from ..ir.types import TensorType
from ..machine.long_sums import FORMED as FORMED_BOTH
from ..machine.machines import Machine, machine_of
from .plan import Kernel

#: seconds of an empty kernel, from the start of it to the start of the next
LAUNCH = 2e-6
#: of the cache, what one launch can count on finding its operands in
CACHE_SHARE = 0.5
#: programs a processor needs for the arithmetic of one to hide behind the products of another
OVERLAP = 2
#: elements of a program that has no product to compute
ELEMENTS = 1024

#: a value is stored rather than recomputed if that is predicted to save this share of its kernels' time. Bytes of
#: memory and launches are counted, times are predicted: until GPUs have confirmed them, only a clear gain outweighs
#: more bytes. Of values that stay in the cache no bytes need be saved, so a small gain decides
GAIN, GAIN_IN_CACHE = 0.3, 0.1
#: clocks of a multiprocessor to form one element of the left operand of a product with matrix units, by simulation of
#: ResNet-50's 3x3 convolutions and their gradients by the input, which take 0.25 to 0.3. A weight gradient's operands
#: take half of that: they go to shared memory in the order in which they are loaded (machine/long_sums.py)
FORMED = 0.28

STORED = {"fp16": 2, "bf16": 2, "fp32": 4, "tf32": 4, "fp64": 8}  # bytes of an activation
FIXED = {"float32": 4, "uint8": 1, "int64": 8}  # bytes of everything else
#: for an operand that is computed, not just loaded: to fp32 and back, and 0 outside the image
CONVERSION = 6


@dataclass(frozen=True)
class Work:
    """What one launch does, as far as its time depends on it.
    That is bytes of parameters and other bytes, flop of products and of arithmetic, the number of programs, and clocks
    of a multiprocessor that tensor cores wait for operands to be formed."""

    parameters: float
    values: float
    products: float
    arithmetic: float
    programs: float
    forming: float = 0.0


@dataclass(frozen=True)
class Cost:
    """The time model for one batch size, dtype and target.
    It goes by the rates of the target's data sheet, or by those that were ``reached``, where they were measured."""

    batch: int
    dtype: str
    target: str
    reached: bool = False

    @property
    def machine(self) -> Machine:
        machine = machine_of(self.target)
        return machine.reached() if self.reached else machine

    @property
    def together(self) -> int:
        """How many programs of a product must run at once for arithmetic to hide behind it.
        Their sum over pixels is dealt out between them."""
        return OVERLAP * self.machine.multiprocessors

    def recompute(self, together: float, apart: float, value: TensorType) -> bool:
        """Is a value to be recomputed by its readers, in so many seconds, or stored?"""
        return together * (1 - self.gain(value)) <= apart

    def gain(self, value: TensorType) -> float:
        """The share of time that storing a value must save."""
        return GAIN_IN_CACHE if self.in_cache(self.bytes(value)) else GAIN

    def in_cache(self, bytes_: float) -> bool:
        """Can a launch count on finding so many bytes in the last cache?"""
        return bytes_ <= self.cache_bytes

    def seconds(self, work: Work) -> float:
        """How long a launch is predicted to take."""
        return LAUNCH + max(self.limits(work).values())

    def bound(self, work: Work) -> str:
        """What most of that time goes to: ``launch``, ``bytes`` or ``operations``."""
        parts = {"launch": LAUNCH, **self.limits(work)}
        return max(parts, key=parts.__getitem__)

    def limits(self, work: Work) -> dict[str, float]:
        """Seconds that a launch needs to move its bytes, and for its operations."""
        machine = self.machine
        busy = min(1.0, work.programs / machine.multiprocessors)
        speed = machine.cache_bandwidth if self.in_cache(work.values) else machine.bandwidth
        moving = work.parameters / machine.bandwidth + work.values / speed
        products = work.products / (machine.rate(self.dtype) * busy)
        arithmetic = work.arithmetic / (machine.vector * 1e12 * busy)
        products += work.forming / (machine.multiprocessors * machine.clock * 1e9 * busy)
        apart = machine.has_matrix_units(self.dtype) and work.programs >= self.together
        operations = max(products, arithmetic) if apart else products + arithmetic
        return {"bytes": moving / busy, "operations": operations}

    @property
    def cache_bytes(self) -> float:
        """What one launch can count on finding in the cache."""
        return CACHE_SHARE * self.machine.cache * 1e6

    def bytes(self, type_: TensorType) -> int:
        return type_.elements(self.batch) * FIXED.get(type_.dtype, STORED[self.dtype])

    def tile(self, length: int) -> int:
        """How much of a product's side one program has (machine/tiles.py)."""
        return min(128 if self.dtype in ("fp16", "bf16") else 64, max(16, 1 << max(length - 1, 0).bit_length()))

    # --- a kernel of a plan ----------------------------------------------------

    def of_kernel(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> float:
        """Seconds of a kernel's main launch. ``base`` gives the value in whose memory another one lies."""
        values = parameters = 0.0
        readers: dict[str, list[Node]] = {}
        for node in kernel.nodes:
            for operand in dict.fromkeys(map(base, node.inputs)):
                readers.setdefault(operand, []).append(node)
        for value in (*kernel.reads, *kernel.writes):
            if graph.types[value].batched:
                values += self._touched(value, readers.get(value, []), graph, base)
            else:
                parameters += self.bytes(graph.types[value])
        products = 0.0 if by_channel(kernel.anchor, graph) else 2.0 * graph.node_macs(kernel.anchor) * self.batch
        arithmetic, forming = self.arithmetic(kernel, graph, base), self.forming(kernel, graph, base)
        programs = self.programs(kernel.anchor, graph)
        return self.seconds(Work(parameters, values, products, arithmetic, programs, forming))

    def _touched(self, value: str, readers: list[Node], graph: Graph, base: Callable[[str], str]) -> float:
        """Bytes of a value that a kernel moves for those of its nodes that read it.
        Of a slice's operand it is only the slice; nothing, if only its shape matters."""
        if readers and all(_unread(n, value, base) for n in readers):
            return 0.0
        if readers and all(n.row.cuts for n in readers):
            return float(sum(self.bytes(graph.types[n.name]) for n in readers))
        return float(self.bytes(graph.types[value]))

    def arithmetic(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> float:
        """Flop of a kernel's pointwise operations, each as often as it is computed.
        Those that are counted as :meth:`forming` are left out."""
        total, anchor = 0.0, kernel.anchor
        before: set[str] = set()
        for i, operand in enumerate(anchor.inputs):
            formed = upstream(kernel, base(operand), base)
            before |= formed
            if _computed(kernel, formed) and not self._waits(anchor, graph):
                each = CONVERSION + sum(kernel.by_name[v].row.operations for v in formed)
                total += each * self.loaded(anchor, i, graph)
        for node in kernel.nodes:
            if node is not anchor and node.name not in before:
                total += node.row.operations * largest(node, graph).elements(self.batch)
        if anchor.kind is not Kind.CONTRACTION:
            total += anchor.row.operations * largest(anchor, graph).elements(self.batch)
        elif by_channel(anchor, graph):
            total += 2.0 * graph.node_macs(anchor) * self.batch
        return total

    def forming(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> float:
        """Clocks of one multiprocessor for which tensor cores wait for operands computed as they are loaded."""
        anchor = kernel.anchor
        if not self._waits(anchor, graph):
            return 0.0
        each = float(FORMED_BOTH) if anchor.row.weight_gradient else FORMED
        formed = (
            i for i, operand in enumerate(anchor.inputs)
            if _computed(kernel, upstream(kernel, base(operand), base))
        )  # fmt: skip
        return each * sum(self.loaded(anchor, i, graph) for i in formed)

    def _waits(self, anchor: Node, graph: Graph) -> bool:
        """Whether a kernel multiplies on matrix units, which wait for operands that are formed."""
        multiplies = anchor.kind is Kind.CONTRACTION and not by_channel(anchor, graph)
        return multiplies and self.machine.has_matrix_units(self.dtype)

    def loaded(self, node: Node, index: int, graph: Graph) -> float:
        """How many elements of an operand a kernel loads over all, counting again what it loads again."""
        types = graph.types
        operand, result = types[node.inputs[index]], types[node.name]
        if node.kind is Kind.WINDOW:
            area = prod(node.attrs.get("kernel_size", (1, 1)))
            return float(result.elements(self.batch) * (area if node.row.pools else 1))
        if node.kind is not Kind.CONTRACTION:
            return float(operand.elements(self.batch))
        if by_channel(node, graph):  # a strip of four columns loads those beside it, too
            beside = 0 if node.row.weight_gradient and index == 0 else _weight(node, graph).per_image[-1] - 1
            return operand.elements(self.batch) * (1 + beside / 4)
        groups = node.attrs.get("groups", 1)
        if node.row.weight_gradient:
            filters, columns = result.per_image[0], prod(result.per_image[1:])
            dy = types[node.inputs[0]].elements(self.batch)
            if index == 0:
                return float(dy * ceil(columns / self.tile(columns)))
            rows = filters // groups
            return float(dy / filters * columns * groups * ceil(rows / self.tile(rows)))
        weight, columns = types[node.inputs[1]].per_image, result.channels // groups
        depth = prod(weight[1:]) * groups
        if node.row.product == "by_input":
            depth = weight[0] * prod(weight[2:]) / prod(node.attrs.get("stride", (1, 1)))
        return float(result.pixels * self.batch * depth * ceil(columns / self.tile(columns)))

    def programs(self, node: Node, graph: Graph) -> float:
        """How many programs the kernel of an anchor has."""
        result = graph.types[node.name]
        if node.kind is Kind.REDUCTION:
            return self.together
        if node.kind is not Kind.CONTRACTION:
            return ceil(result.elements(self.batch) / ELEMENTS)
        groups = node.attrs.get("groups", 1)
        if node.row.weight_gradient:
            rows, columns = result.per_image[0] // groups, prod(result.per_image[1:])
            return max(ceil(rows / self.tile(rows)) * ceil(columns / self.tile(columns)) * groups, self.together)
        rows, columns = result.pixels * self.batch, result.channels // groups
        most = ceil(rows / 32) * ceil(columns / self.tile(columns))  # rows are dealt out between more programs,
        full = ceil(rows / self.tile(rows)) * ceil(columns / self.tile(columns))  # until these are self.together / 2
        return max(full, min(most, self.together / 2)) * groups


def _weight(node: Node, graph: Graph) -> TensorType:
    """The type of a convolution's weight, or of the weight's gradient."""
    return graph.types[node.name if node.row.weight_gradient else node.inputs[1]]


def by_channel(node: Node, graph: Graph) -> bool:
    """Whether a convolution, or a gradient of one, filters each channel by itself, without matrix products.
    Its filters reach from one window into the next, or at least to it, and begin inside the image or right before it:
    those that `depthwise` of kernels/ takes."""
    groups = node.attrs.get("groups", 1) if node.row.over_images else 1
    if groups == 1:
        return False
    weight = _weight(node, graph).per_image
    if tuple(weight[:2]) != (groups, 1) or prod(weight[2:]) == 1:
        return False
    (r, s), (sh, sw), (top, _, left, _) = weight[2:], node.attrs["stride"], node.attrs["padding"]
    return tuple(node.attrs["dilation"]) == (1, 1) and r >= sh and s >= sw and top < r and left < s


def _unread(node: Node, value: str, base: Callable[[str], str]) -> bool:
    """Does a node ask for the shape of a value only?"""
    return all(base(v) != value or i in node.row.unread for i, v in enumerate(node.inputs))


def _computed(kernel: Kernel, formed: Iterable[str]) -> bool:
    """Is an operand computed, not just loaded from among other channels?"""
    return any(not kernel.by_name[value].row.cuts for value in formed)


def upstream(kernel: Kernel, value: str, base: Callable[[str], str]) -> set[str]:
    """What is computed in the kernel to form ``value``."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        node = kernel.by_name.get(waiting.pop())
        if node is not None and node is not kernel.anchor and node.name not in found:
            found.add(node.name)
            waiting += map(base, node.inputs)
    return found


def largest(node: Node, graph: Graph) -> TensorType:
    """The largest of a node's result and operands."""
    types: Iterable[TensorType] = (graph.types[v] for v in (node.name, *node.inputs))
    return max(types, key=lambda t: t.elements(1) if t.batched else 0)
