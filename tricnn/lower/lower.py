"""Lowering: each kernel of a plan becomes a function of the emitted file, and one launch or a few."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from ..compiler.plan import Kernel, Plan
from ..ir.table import Kind
from ..machine.dtypes import check_dtype
from ..machine.tiles import Form
from ..system.errors import TargetError
from .across_channels import (
    lower_layer_norm_grad,
    lower_of_all_channels,
    lower_of_near_channels,
    lower_of_pixels,
    lower_softmax,
)
from .contractions import lower_dgrad, lower_fprop, lower_wgrad
from .copies import lower_copy
from .depthwise import goes_by_strips, lower_depthwise, lower_depthwise_wgrad
from .filters import lower_filters, lower_standardized
from .first_layers import lower_packed, lower_windows, lower_windows_wgrad, pack
from .loss import lower_loss
from .lowering import Lowering
from .partial_sums import lower_many_sums, sums_waiting
from .pointwise import lower_pointwise
from .pooling import lower_avg_pool_grad, lower_max_pool_grad, lower_pool
from .program import Program
from .resampling import lower_resample
from .sums import lower_batch_stats, lower_channel_sum, lower_normalize_sums, lower_running

#: how the kernel of each other anchor is lowered; a chain of pointwise operations is one anchor
LOWERINGS: dict[str, Callable[[Lowering, Kernel], None]] = {
    "scale_filters": lower_filters,
    "standardize_filters": lower_standardized,
    "standardize_filters_grad": lower_standardized,
    "filter_scale_grad": lower_filters,
    "filter_sum": lower_filters,
    "channel_sum": lower_channel_sum,
    "batch_stats": lower_batch_stats,
    "normalize_grad_sums": lower_normalize_sums,
    "running_mean": lower_running,
    "running_var": lower_running,
    "max_pool2d": lower_pool,
    "max_pool2d_index": lower_pool,
    "avg_pool2d": lower_pool,
    "global_avg_pool": lower_pool,
    "max_pool2d_grad": lower_max_pool_grad,
    "avg_pool2d_grad": lower_avg_pool_grad,
    "global_avg_pool_grad": lower_pointwise,
    "upsample_nearest2d": lower_pointwise,
    "upsample_nearest2d_grad": lower_resample,
    "upsample_bilinear2d": lower_resample,
    "upsample_bilinear2d_grad": lower_resample,
    "adaptive_avg_pool2d": lower_resample,
    "adaptive_avg_pool2d_grad": lower_resample,
    "zero_pad2d": lower_pointwise,
    "channel_shuffle": lower_pointwise,
    "pixel_shuffle": lower_pointwise,
    "pixel_unshuffle": lower_pointwise,
    "cross_entropy": lower_loss,
    "cross_entropy_grad": lower_loss,
    "soft_cross_entropy": lower_loss,
    "soft_cross_entropy_grad": lower_loss,
    "binary_cross_entropy": lower_loss,
    "binary_cross_entropy_grad": lower_loss,
    "squared_error": lower_loss,
    "squared_error_grad": lower_loss,
    "layer_normalize_grad_sums": lower_normalize_sums,
    "pixel_stats": lower_of_pixels,
    "layer_normalize_grad_input": lower_layer_norm_grad,
    "sum_channels": lower_of_all_channels,
    "max_channels": lower_of_all_channels,
    "max_channels_grad": lower_of_all_channels,
    "softmax": lower_softmax,
    "softmax_grad": lower_softmax,
    "local_response_norm": lower_of_near_channels,
    "local_response_norm_grad": lower_of_near_channels,
    "concat": lower_copy,
    "concat_filters": lower_copy,
    "repeat_number": lower_copy,
    "slice_channels": lower_copy,
    "pad_channels": lower_copy,
    "stack": lower_copy,
    "flatten": lower_copy,
    "unflatten": lower_copy,
}

#: how convolutions and dense layers are lowered, by the product that they are
PRODUCTS: dict[str, Callable[[Lowering, Kernel], None]] = {
    "forward": lower_fprop,
    "by_input": lower_dgrad,
    "by_weight": lower_wgrad,
}
#: how those are lowered that read a packed image, by the product that they are
PACKED: dict[str, Callable[[Lowering, Kernel], None]] = {
    "forward": lower_windows,
    "by_weight": lower_windows_wgrad,
}
#: how depthwise ones are lowered, by the product that they are
STRIPS: dict[str, Callable[[Lowering, Kernel], None]] = {
    "forward": lower_depthwise,
    "by_input": lower_depthwise,
    "by_weight": lower_depthwise_wgrad,
}


def lower(
    plan: Plan,
    dtype: str,
    batch: int,
    target: str = "sm_90",
    forms: Mapping[str, Form] | None = None,
    kernels: Collection[str] | None = None,
) -> Program:
    """The program of a plan for one dtype: its functions, and the launches of a step in order.

    ``batch`` and ``target`` guide the choice of tiles only: a program runs any batch size.

    ``forms`` maps a function's name to the form that its compilation asked for.
    ``kernels`` names those to lower, if not all of them.
    """
    check_dtype(dtype)
    gathered = partial(_gathered, plan, dtype, batch, target, kernels)
    state = gathered(forms or {}, {})
    if any(entry.functions for entry in state.tuned.values()):
        # Whether a tile was found for a function, its first form tells.
        passed = passed_over(partial(gathered, {}), gathered({}, {}) if forms else state)
        state = gathered(forms or {}, passed) if forms or passed else state
    used = {argument for launch in state.launches for argument in launch.arguments}
    descriptors = {name: d for name, d in state.descriptors.items() if name in used}
    return Program(
        plan=plan,
        dtype=dtype,
        batch=batch,
        target=target,
        functions=tuple(state.functions.values()),
        launches=tuple(state.launches),
        buffers=state.buffers,
        order=state.order,
        sums=tuple(state.sums),
        choices=tuple(state.choices),
        rounded=state.rounded,
        descriptors=descriptors,
        wide=state.wide,
        tuned=tuple(state.tuned),
        passed=tuple(state.passed),
    )


def passed_over(gathered: Callable[[Mapping[str, int]], Lowering], state: Lowering) -> dict[str, int]:
    """How many tuned tiles of its problem each function passes over, until one was found for it or there is no other.
    ``gathered``: what is lowered where functions pass over so many; ``state``: where they pass over none."""
    passed: dict[str, int] = {}
    while state.misfits:
        passed |= {name: passed.get(name, 0) + 1 for name in state.misfits}
        state = gathered(passed)
    return passed


def _gathered(
    plan: Plan, dtype: str, batch: int, target: str, kernels: Collection[str] | None, forms: Mapping[str, Form],
    passed: Mapping[str, int],
) -> Lowering:  # fmt: skip
    """All that is lowered of a plan's kernels."""
    state = Lowering(plan, dtype, batch, target, dict(forms), passed=passed)
    packed = pack(state)
    for kernel in plan.kernels:
        if kernels is None or kernel.name in kernels:
            touched = map(plan.storage, (*kernel.reads, *kernel.writes))
            strips = goes_by_strips(plan, kernel, state.storage)
            lowering_of(kernel, any(v in packed for v in touched), strips)(state, kernel)
            if plan.bucket_bytes is not None and sums_waiting(state) >= plan.bucket_bytes:
                lower_many_sums(state)
    if sums_waiting(state):
        lower_many_sums(state)
    return state


def lowering_of(kernel: Kernel, packed: bool = False, strips: bool = False) -> Callable[[Lowering, Kernel], None]:
    """What lowers a kernel, one that reads or makes a ``packed`` image, goes by ``strips``, or another one.
    Raises TargetError, which names the layer, if nothing does."""
    op = kernel.anchor.op
    product = kernel.anchor.row.product
    if packed:
        return PACKED[product] if product else lower_packed
    if product:
        return (STRIPS if strips else PRODUCTS)[product]
    if op in LOWERINGS:
        return LOWERINGS[op]
    if kernel.anchor.kind is Kind.POINTWISE:
        return lower_pointwise
    raise TargetError(f"layer {kernel.anchor.name}: {op} has no Triton kernel yet")
