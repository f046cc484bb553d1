"""Whether calls that change memory in place can be read as calls that return what is new.

``relu_(x)`` is ``relu(x)`` as long as nobody looks at the memory of x afterwards but through the result. Which results
lie in whose memory, and what a call changes, is in the schemas of ATen's operations. Where somebody does look, PyTorch
has to trace the program again (``run_decompositions``), which is right for every program and takes longer than the
export itself.
"""

from __future__ import annotations

import operator
from typing import Any

#: operations whose result may be their operand itself, which their schemas do not say
MAY_BE_OPERAND = ("dropout", "feature_dropout", "alpha_dropout", "type_as")
#: the counter of batches, which nothing reads
COUNTER = "num_batches_tracked"


def reads_as_functional(program: Any) -> bool:
    """Does an exported program compute the same if each call in place is read as the one that returns a new value?

    Not if an input or a buffer (batch norm's counters apart) is changed, if memory is seen by two while it changes, or
    if a call is none of ATen's, of which nobody knows what it changes.
    """
    place = {node: i for i, node in enumerate(program.graph.nodes)}
    counters = {s.arg.name for s in program.graph_signature.input_specs if str(s.target or "").endswith(COUNTER)}
    memory: dict[Any, Any] = {}  # of a value: the first value that lies there
    lying: dict[Any, list[Any]] = {}  # there: all values that do
    for node in program.graph.nodes:
        first = node
        if node.op == "call_function" and not _number(node):
            schema = getattr(node.target, "_schema", None)
            if schema is None and node.target is not operator.getitem:
                return False
            arguments = list(schema.arguments) if schema is not None else []
            written = [a for a in arguments if a.alias_info and a.alias_info.is_write]
            operand = memory.get(node.args[0]) if node.args and type(node.args[0]).__name__ == "Node" else None
            if written:
                if operand is None or len(written) > 1 or written[0] is not arguments[0]:
                    return False
                if operand.op != "call_function":
                    if operand.name in counters and not node.users:
                        continue
                    return False
                if any(place[user] > place[node] for value in lying[operand] for user in value.users):
                    return False
            if operand is not None and (schema is None or written or _lies_there(node.target, schema)):
                first = operand
        memory[node] = first
        lying.setdefault(first, []).append(node)
    return True


def _number(node: Any) -> bool:
    """Does a call compute with sizes only?"""
    value = node.meta.get("val")
    return not hasattr(value, "shape") and not isinstance(value, list | tuple)


def _lies_there(target: Any, schema: Any) -> bool:
    """May a result lie in its operand's memory?"""
    return schema.name.removeprefix("aten::") in MAY_BE_OPERAND or any(r.alias_info for r in schema.returns)
