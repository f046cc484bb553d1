"""The tuned tiles that come with tricnn: a user would lose time to one that is slower than the rule's."""

import pytest

from tricnn.build.build import spec
from tricnn.build.compile import CompileError, compile_kernels
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered
from tricnn.lower.lower import lower
from tricnn.machine import tuned_files as tuning
from tricnn.machine.tiles import Form
from tricnn.measure.tune_simulated import kernel_us

NETWORKS = ("lenet", "alexnet", "resnet18", "resnet50", "googlenet_bn", "vgg16_bn", "inception_v3")
SAMPLE = 3


def settled_us(plan, choice):
    """Simulated microseconds of the kernel of a choice, in the first form that neither spills nor fails."""
    for smaller in range(9):
        forms = {choice.function: Form(smaller)}
        program = lower(plan, "bf16", 256, "sm_90", forms, kernels=[choice.kernel])
        found = compile_kernels([spec(f) for f in program.functions], target="sm_90", return_errors=True)
        if not any(isinstance(code, CompileError) or code.spill_bytes for code in found):
            return kernel_us(program, {f.name: c for f, c in zip(program.functions, found, strict=True)}, choice.kernel)
    raise AssertionError(f"{choice.kernel} spills")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_tuned_tile_is_no_slower_than_the_rules(name):
    """A sample of the problems of each network: compilers and the simulator as they are."""
    program = lowered(ARCHITECTURES[name](), "train", 256, "bf16", "sm_90", fuse="auto")
    tuned = {c.problem: c for c in program.choices if c.function in program.tuned and c.function not in program.passed}
    for problem in sorted(tuned, key=str)[:: -(-len(tuned) // SAMPLE) or 1]:
        with tuning.only({}):
            rule = settled_us(program.plan, tuned[problem])
        assert settled_us(program.plan, tuned[problem]) <= rule, str(problem)
