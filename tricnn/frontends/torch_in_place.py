"""Whether calls that change memory in place can be read as calls that return what is new.

``relu_(x)`` is ``relu(x)`` as long as nobody looks at the memory of x afterwards but through the result. Which results
lie in whose memory, and what a call changes, is in the schemas of ATen's operations. Where somebody does look, PyTorch
has to trace the program again (``run_decompositions``), which takes longer than the export itself. It goes by the
schemas as well, and gives other numbers where a result is its operand itself and no schema says so: dropout that drops
nothing, ``einsum("bchw->bchw", x)``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

#: operations of (input, p, train) that return their input itself where they drop nothing
DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
#: the counter of batches, which nothing reads
COUNTER = "num_batches_tracked"


class Change(NamedTuple):
    """A call that cannot be read as one that returns a new value.
    ``unsaid``: a call whose result lies in the memory that this one changes although its schema does not say so."""

    call: Any
    unsaid: Any = None


def reads_as_functional(program: Any) -> bool:
    """Does an exported program compute the same if each call in place is read as the one that returns a new value?

    Not if an input or a buffer (batch norm's counters apart) is changed, if memory is seen by two while it changes, or
    if a call is none of ATen's, of which nobody knows what it changes.
    """
    return next(changes(program), None) is None


def changes(program: Any) -> Iterator[Change]:
    """The calls of an exported program that cannot be read as ones that return a new value."""
    place = {node: i for i, node in enumerate(program.graph.nodes)}
    counters = {s.arg.name for s in program.graph_signature.input_specs if str(s.target or "").endswith(COUNTER)}
    memory: dict[Any, Any] = {}  # of a value: the first value that lies there
    lying: dict[Any, list[Any]] = {}  # there: all values that do
    unsaid: dict[Any, Any] = {}  # there: a value of which no schema says that it does
    for node in program.graph.nodes:
        first = node
        if node.op == "call_function" and not _number(node):
            schema = getattr(node.target, "_schema", None)
            if schema is None and node.target is not operator.getitem:
                yield Change(node)
            arguments = list(schema.arguments) if schema is not None else []
            written = [a for a in arguments if a.alias_info and a.alias_info.is_write]
            operand = memory.get(node.args[0]) if node.args and _is_node(node.args[0]) else None
            if written:
                if operand is None or len(written) > 1 or written[0] is not arguments[0]:
                    yield Change(node)
                elif operand.op != "call_function":
                    if operand.name in counters and not node.users:
                        continue
                    yield Change(node)
                elif any(place[user] > place[node] for value in lying[operand] for user in value.users):
                    yield Change(node, unsaid.get(operand))
            if operand is not None and (schema is None or written or any(r.alias_info for r in schema.returns)):
                first = operand
            elif (silent := next((x for x in node.all_input_nodes if _is_itself(node, x)), None)) is not None:
                first = memory[silent]
                unsaid.setdefault(first, node)
        memory[node] = first
        lying.setdefault(first, []).append(node)


def _is_node(argument: Any) -> bool:
    return type(argument).__name__ == "Node"


def _number(node: Any) -> bool:
    """Does a call compute with sizes only?"""
    value = node.meta.get("val")
    return not hasattr(value, "shape") and not isinstance(value, list | tuple)


def _is_itself(node: Any, operand: Any) -> bool:
    """Does a result lie in an operand's memory: did it as the program was traced, or does dropout drop nothing?"""
    if not hasattr(node.target, "_schema"):
        return False  # a call of a graph, such as one under torch.no_grad, which is read nowhere
    if node.target._schema.name.removeprefix("aten::") in DROPOUT:
        given = dict(zip(("input", "p", "train"), node.args)) | dict(node.kwargs)
        return not given["train"] or given["p"] == 0
    result, x = node.meta.get("val"), operand.meta.get("val")
    both = hasattr(result, "untyped_storage") and hasattr(x, "untyped_storage")
    return both and result.untyped_storage()._cdata == x.untyped_storage()._cdata
