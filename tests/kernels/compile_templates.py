"""Compile every kernel of these tests for GPUs that need not be there. Run by `test_compile`, or by hand:

    TRITON_INTERPRET=0 python -m tests.kernels.compile_templates

The interpreter accepts much that the compiler does not, and says nothing of registers and instructions. Prints one JSON
object per kernel: its name, target, spilled bytes, and whether its machine code multiplies on tensor cores.
"""

import json
import re
import subprocess
import tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.kernels import test_conv2d, test_elementwise, test_loss, test_pool, test_reduce
from tests.kernels.helpers import store_row
from tests.kernels.test_conv2d import store_partial
from tricnn.kernels import optimisers
from tricnn.kernels.conv2d_dgrad import conv2d_dgrad
from tricnn.kernels.conv2d_fprop import conv2d_fprop
from tricnn.kernels.conv2d_wgrad import conv2d_wgrad
from tricnn.kernels.numerics import round_to
from tricnn.kernels.stats import store_tile_stats

SM_90 = GPUTarget("cuda", 90, 32)
GFX942 = GPUTarget("hip", "gfx942", 64)


@triton.jit
def load_normalised(pixel, channel, mask, args):
    """relu(z*scale + shift), 0 where there is no z: the prologue of a convolution after batch norm."""
    z, scale, shift, C = args
    value = tl.load(z + pixel * C + channel, mask=mask, other=0.0).to(tl.float32)
    value = value * tl.load(scale + channel) + tl.load(shift + channel)
    return tl.where(mask, tl.maximum(value, 0.0), 0.0).to(z.dtype.element_ty)


@triton.jit
def load_masked(pixel, channel, mask, args):
    dy, z, C = args
    dy = tl.load(dy + pixel * C + channel, mask=mask, other=0.0)
    return tl.where(tl.load(z + pixel * C + channel, mask=mask, other=0.0) > 0, dy, 0.0)


@triton.jit
def store_with_stats(acc, pixel, channel, mask, part, args):
    y, partials, C = args
    y_tile = round_to(acc, y.dtype.element_ty)
    tl.store(y + pixel * C + channel, y_tile, mask=mask)
    store_tile_stats(y_tile, channel, mask, part, partials, C)


@triton.jit
def tensor_core_fprop(x, scale, shift, w, y, partials, N):
    conv2d_fprop(
        load_normalised, (x, scale, shift, 64), w, store_with_stats, (y, partials, 64), N, 64, 56, 56, 64, 3, 3, 56, 56,
        BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, PT=1, PL=1,
    )  # fmt: skip


@triton.jit
def tensor_core_dgrad(dy, z, w, dx, partials, N):
    conv2d_dgrad(
        load_masked, (dy, z, 64), w, store_with_stats, (dx, partials, 64), N, 64, 56, 56, 64, 3, 3, 28, 28,
        BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, SH=2, SW=2, PT=1, PL=1,
    )  # fmt: skip


@triton.jit
def tensor_core_wgrad(dy, z, x, scale, shift, dw, db, N):
    conv2d_wgrad(
        load_masked, (dy, z, 64), load_normalised, (x, scale, shift, 64), store_partial, (dw, 64, 576),
        store_row, (db, 64), N, 64, 56, 56, 64, 3, 3, 28, 28, SPLIT=8, BLOCK_M=64, BLOCK_N=64, BLOCK_K=64,
        SH=2, SW=2, PT=1, PL=1, BIAS=True,
    )  # fmt: skip


CONV = dict(C=20, H=9, W=8, K=6, R=3, S=2, P=4, Q=4, SH=2, SW=2, DH=1, DW=1, PT=0, PL=1, GROUPS=1)
POOL = dict(C=5, H=9, W=8, R=3, S=3, P=5, Q=4, SH=2, SW=2, PT=1, PL=1)
AVERAGE = POOL | dict(INCLUDE_PAD=False)

# A kernel, the types of its arguments in order, and its constants.
KERNELS = [
    (test_conv2d.fprop_kernel, "*fp16 *fp32 *fp32 i32", CONV),
    (test_conv2d.fprop_kernel, "*fp32 *fp32 *fp32 i32", CONV | dict(C=3)),
    (test_conv2d.dgrad_kernel, "*fp16 *fp32 *fp32 i32", CONV),
    (test_conv2d.wgrad_kernel, "*fp16 *fp16 *fp32 *fp32 i32", CONV | dict(SPLIT=3)),
    (test_conv2d.pooled_kernel, "*fp32 *fp32 *fp32 *u8 i32", dict(C=3, H=9, W=7, K=20, WINDOW_H=2, WINDOW_W=2)),
    (test_pool.max_kernel, "*bf16 *bf16 *u8 i32", POOL),
    (test_pool.max_grad_kernel, "*bf16 *u8 *bf16 i32", POOL),
    (test_pool.avg_kernel, "*fp16 *fp16 i32", AVERAGE),
    (test_pool.avg_grad_kernel, "*fp16 *fp16 i32", AVERAGE),
    (test_reduce.partials_kernel, "*fp32 *fp32 i32", dict(LENGTH=37, SPLIT=3)),
    (test_reduce.channel_sum_kernel, "*bf16 *fp32 i32", dict(PIXELS=35, C=20, SPLIT=3)),
    (test_reduce.channel_sum_pair_kernel, "*bf16 *fp32 i32", dict(PIXELS=35, C=20, SPLIT=3)),
    (test_reduce.stats_kernel, "*bf16 *fp32 i32", dict(PIXELS=35, C=20)),
    (test_reduce.merge_kernel, "*fp32 *fp32 i32", dict(C=20, SPLIT=3)),
    (test_reduce.slice_kernel, "*fp32 *fp32 i32", dict(PIXELS=9, C=20)),
    (test_loss.softmax_kernel, "*fp16 *fp16 i32", dict(C=37, BLOCK_N=64)),
    (
        test_loss.loss_kernel,
        "*fp16 *i64 *fp32 *fp32 *fp16 i32",
        dict(C=37, BLOCK_N=64, SMOOTHING=0.1, LOSSES=True, GRAD=True),
    ),
    (test_loss.mean_kernel, "*fp32 *fp32 i32", {}),
    (test_elementwise.mask_kernel, "*u8 i64 i64 i32 i64", dict(layer=3, PIXELS=8, C=3)),
    (optimisers.sums_of_many, "*i64 *fp32", dict(BLOCK=4096)),
    (
        optimisers.moments_of_many,
        "*i64 *fp32 *fp32 i32" + 9 * " fp32",
        dict(CLIPS=True, BLOCK=2048, WIDTH=1024),
    ),
    *[
        (
            optimisers.update_of_many,
            "*i64 *fp32 *fp32 i32" + 12 * " fp32",
            dict(RULE=rule, REMEMBERS=True, CLIPS=True, AVERAGES=True, ROUNDED=tl.bfloat16, BLOCK=1024, WIDTH=1024),
        )
        for rule in ("nesterov", "adamw", "lars", "lamb")
    ],
    (test_elementwise.to_kernel, "*fp16 *fp16 i32", dict(C=20, PIXELS=10)),
    (test_elementwise.from_kernel, "*fp16 *fp16 i32", dict(C=20, PIXELS=10)),
    (test_elementwise.round_kernel, "*fp32 *bf16", dict(BLOCK=64)),
]
TENSOR_CORE = [
    (tensor_core_fprop, "*bf16 *fp32 *fp32 *bf16 *bf16 *fp32 i32"),
    (tensor_core_dgrad, "*bf16 *bf16 *bf16 *bf16 *fp32 i32"),
    (tensor_core_wgrad, "*bf16 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 i32"),
]


def compiled(kernel, types, constants, target, **options):
    types = types.split()
    signature = dict(zip(kernel.arg_names, types + ["constexpr"] * len(constants), strict=True))
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    # torch aligns what it allocates; the runtime tells the compiler so.
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=target, options=options)


def spilled_bytes(kernel):
    """Bytes of stack per thread in the machine code for a CUDA device; these kernels use the stack for nothing else."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])


def main():
    for kernel, types, constants in KERNELS:
        compiled(kernel, types, constants, SM_90)
        print(json.dumps(dict(name=kernel.__name__, target="sm_90")), flush=True)
    for kernel, types in TENSOR_CORE:
        result = compiled(kernel, types, {}, SM_90, num_warps=8, num_stages=3)
        report = dict(spilled=spilled_bytes(result), tensor_core="wgmma.mma_async" in result.asm["ptx"])
        print(json.dumps(dict(name=kernel.__name__, target="sm_90") | report), flush=True)
        result = compiled(kernel, types, {}, GFX942, num_warps=8, num_stages=2)
        spilled = int(re.search(r"\.vgpr_spill_count:\s*(\d+)", result.asm["amdgcn"])[1])
        report = dict(spilled=spilled, tensor_core="v_mfma" in result.asm["amdgcn"])
        print(json.dumps(dict(name=kernel.__name__, target="gfx942") | report), flush=True)


if __name__ == "__main__":
    main()
