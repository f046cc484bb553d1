"""How long a kernel will take, from what it moves and what it computes: a roofline with a fixed cost for each launch.

    time = launch + max(bytes / bandwidth, products / matrix rate + waiting, arithmetic / vector rate)
    waiting = loading + the longer of forming and summing + half of the shorter
    forming = elements loaded * clocks each / (multiprocessors * clock)
    loading, summing = elements of the result * images, or sums, beside it * clocks each / (multiprocessors * clock)

What a launch moves comes from the last cache where it fits in there (small batches), else from memory; parameters come
from memory. Arithmetic is what pointwise operations need. Where several programs share a processor, one's arithmetic
runs beside another's products; where there are fewer, they follow one another, and their times add. Fewer programs
than processors leave some idle.

Forming is what tensor cores wait for where an operand is computed as it is loaded: it passes through registers. What
that takes is not the arithmetic but the instructions around it (addresses, masks, conversions, waiting), so it is
counted in clocks for each element, found by simulating the machine code. An element is formed as often as it is loaded:
by a 3x3 convolution nine times, and again for every tile of filters. An operand that is stored comes by bulk copies, or
asynchronous ones, and costs its bytes. Likewise they wait for an epilogue that loads images beside the product, or adds
up what it stores; one program's sums run beside another's forming, half of the time.

The clocks, and the share of a data sheet's products that kernels reach, are fitted to simulated times of ResNet-50's
kernels, fused and unfused, at batch 256 in bf16 on an H100 (benchmarks/predictions.md: the mean error there is 12 %).
Other machines are taken to reach the same shares of theirs.

Williams, Waterman, Patterson: Roofline (2009). Rates are those of machine/machines.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, prod

from ..ir.graph import Graph, Node
from ..ir.table import Kind
from ..ir.types import TensorType
from ..machine.machines import Machine, machine_of
from ..machine.targets import TARGETS
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
#: memory and launches are counted, times are predicted: so what decides is a gain of twice the model's error, on the
#: target whose kernels it was fitted to, and a clear gain on others. Of values that stay in the cache no bytes need be
#: saved, so a small gain decides
GAIN, GAIN_IN_CACHE = 0.2, 0.1
FITTED, GAIN_ELSEWHERE = "sm_90", 0.3
#: clocks of a multiprocessor to form one element of the left operand of a product with matrix units: for each image
#: that it is made of, where these come in boxes; where they are gathered, tap by tap. A weight gradient's operands take
#: half of that: they go to shared memory in the order in which they are loaded. Where both are formed, a program needs
#: the registers of the one that would run beside it, and nothing hides what it waits for: half as much again
FORMED, GATHERED, TO_SHARED, BOTH_FORMED = 0.11, 0.29, 0.5, 1.5
#: numbers for each channel with which registers last for an operand that is formed beside 128 columns, as those of one
#: batch norm do (mean, deviation, weight and bias); with more of them, a program has 64, and forms it twice as often
VECTORS = 6
#: clocks of a multiprocessor for each element of a product's result, and each image that is loaded beside it, or set
#: of sums over what is stored
BESIDE = 0.14
#: of the shorter of the two waits, that for operands and that for the epilogue, what the longer one does not hide
IN_TURN = 0.5
#: the share of a data sheet's rate that products on matrix units reach
REACHED_PRODUCTS = 0.48

STORED = {"fp16": 2, "bf16": 2, "fp32": 4, "tf32": 4, "fp64": 8}  # bytes of an activation
FIXED = {"float32": 4, "uint8": 1, "int64": 8}  # bytes of everything else
#: for an operand that is computed, not just loaded: to fp32 and back, and 0 outside the image
CONVERSION = 6


@dataclass(frozen=True)
class Work:
    """What one launch does, as far as its time depends on it.
    That is bytes of parameters and other bytes, flop of products and of arithmetic, the number of programs, and clocks
    of a multiprocessor that tensor cores wait for operands to be formed, and for the epilogue."""

    parameters: float
    values: float
    products: float
    arithmetic: float
    programs: float
    waiting: float = 0.0


@dataclass(frozen=True)
class Cost:
    """The time model for one batch size, dtype and target."""

    batch: int
    dtype: str
    target: str

    @property
    def machine(self) -> Machine:
        return machine_of(self.target)

    @property
    def narrow(self) -> bool:
        """Are activations of 16 bits?"""
        return STORED[self.dtype] == 2

    @property
    def keeps_sums(self) -> bool:
        """Do programs of products have several tiles, over which they keep sums in registers (Hopper's boxes)?"""
        return self.narrow and TARGETS[self.target].bulk_copies

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
        if self.in_cache(self.bytes(value)):
            return GAIN_IN_CACHE
        return GAIN if self.target == FITTED else GAIN_ELSEWHERE

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
        machine, memory = self.machine, self.machine.reached()
        busy = min(1.0, work.programs / machine.multiprocessors)
        speed = memory.cache_bandwidth if self.in_cache(work.values) else memory.bandwidth
        moving = work.parameters / memory.bandwidth + work.values / speed
        share = REACHED_PRODUCTS if machine.has_matrix_units(self.dtype) else 1.0
        products = work.products / (share * machine.rate(self.dtype) * busy)
        arithmetic = work.arithmetic / (machine.vector * 1e12 * busy)
        products += work.waiting / (machine.multiprocessors * machine.clock * 1e9 * busy)
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
        arithmetic, waiting = self.arithmetic(kernel, graph, base), self.waiting(kernel, graph, base)
        programs = self.programs(kernel.anchor, graph)
        return self.seconds(Work(parameters, values, products, arithmetic, programs, waiting))

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

    def waiting(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> float:
        """Clocks of one multiprocessor for which tensor cores wait: for operands to be formed, and for the epilogue."""
        forming, (loading, summing) = self.forming(kernel, graph, base), self.beside(kernel, graph, base)
        return loading + max(forming, summing) + IN_TURN * min(forming, summing)

    def forming(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> float:
        """Clocks of one multiprocessor for which tensor cores wait for operands computed as they are loaded."""
        anchor, clocks, operands = kernel.anchor, 0.0, 0
        if not self._waits(anchor, graph):
            return clocks
        for i, operand in enumerate(anchor.inputs):
            formed = upstream(kernel, base(operand), base)
            if _computed(kernel, formed):
                images = len(_images(kernel, formed, graph, base))
                each = FORMED * max(images, 1) if self._in_boxes(anchor, i, graph) else GATHERED
                narrow = not anchor.row.weight_gradient and _vectors(kernel, formed, graph, base) > VECTORS
                clocks += each * self.loaded(anchor, i, graph) * (2 if narrow and self._several(anchor, graph) else 1)
                operands += 1
        if anchor.row.weight_gradient:
            clocks *= TO_SHARED * (BOTH_FORMED if operands == 2 else 1)
        return clocks

    def beside(self, kernel: Kernel, graph: Graph, base: Callable[[str], str]) -> tuple[float, float]:
        """Clocks of one multiprocessor for which tensor cores wait for what an epilogue loads, and what it adds up."""
        anchor = kernel.anchor
        if not self._waits(anchor, graph) or anchor.row.weight_gradient:
            return 0.0, 0.0
        operands = {base(v) for v in anchor.inputs}
        formed = set().union(*(upstream(kernel, v, base) for v in operands))
        before = operands | {base(v) for name in formed for v in kernel.by_name[name].inputs}
        images = [v for v in kernel.reads if v not in before and graph.types[v].batched]
        sums = [node for node in kernel.nodes if node.row.side_sum == "stored"]
        each = BESIDE * graph.types[anchor.name].elements(self.batch)
        return each * len(images), each * len(sums)

    def _several(self, anchor: Node, graph: Graph) -> bool:
        """Whether a product has several tiles of columns at their widest."""
        columns = graph.types[anchor.name].channels
        return columns > self.tile(columns)

    def _in_boxes(self, anchor: Node, index: int, graph: Graph) -> bool:
        """Whether the images that an operand is formed of come in boxes, of which each row is a pixel."""
        if not TARGETS[self.target].bulk_copies or STORED[self.dtype] > 2:
            return False
        if not anchor.row.over_images or (anchor.row.weight_gradient and index == 0):
            return True
        alone = prod(_weight(anchor, graph).per_image[2:]) == anchor.attrs.get("groups", 1) == 1
        return alone and tuple(anchor.attrs["stride"]) == (1, 1)

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


def _images(kernel: Kernel, formed: Iterable[str], graph: Graph, base: Callable[[str], str]) -> set[str]:
    """The images that a kernel loads to form an operand: what has a number for each of its pixels and channels."""
    inputs = {base(v) for name in formed for v in kernel.by_name[name].inputs} - set(formed)
    return {v for v in inputs if graph.types[v].batched and graph.types[v].pixels > 1}


def _vectors(kernel: Kernel, formed: Iterable[str], graph: Graph, base: Callable[[str], str]) -> int:
    """How many numbers for each channel a kernel loads to form an operand: two of statistics and of sums."""
    inputs = {base(v) for name in formed for v in kernel.by_name[name].inputs} - set(formed)
    return sum(prod(graph.types[v].per_image[:-1]) for v in inputs if not graph.types[v].batched)


def upstream(kernel: Kernel, value: str, base: Callable[[str], str]) -> set[str]:
    """The nodes that a kernel computes to form ``value``."""
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
