"""Triton templates: a template owns the loop; small generated functions say what it loads and what it stores.

A template takes those functions as `tl.constexpr` arguments, each followed by the tuple of pointers and scalars that it
needs. Nothing here is launched as it stands: a kernel is a function around a call, such as

    @triton.jit
    def conv1_load_x(pixel, channel, mask, args):
        (x,) = args
        return tl.load(x + pixel * 16 + channel, mask=mask, other=0.0)

    @triton.jit
    def conv1_store_y(acc, pixel, channel, mask, part, args):
        bias, y = args
        acc += tl.load(bias + channel, mask=channel < 6, other=0.0)
        tl.store(y + pixel * 6 + channel, round_to(tl.maximum(acc, 0.0), y.dtype.element_ty), mask=mask)

    @triton.jit
    def conv1(x, w, bias, y, N):
        conv2d_fprop(conv1_load_x, (x,), w, conv1_store_y, (bias, y), N, C=16, H=28, W=28, K=6, R=5, S=5, P=28, Q=28,
                     PT=2, PL=2, BLOCK_M=128, BLOCK_N=16, BLOCK_K=16)

| template | computes | grid |
|---|---|---|
| `conv2d_fprop` | convolution, linear layer; a pooling in its epilogue | rows x columns, groups |
| `conv2d_dgrad` | its gradient by the input | rows x columns, groups, residue classes |
| `conv2d_wgrad` | its gradient by the weights, and by the bias | rows x columns, groups, splits |
| `matmul_boxes` | dense layer, 1x1 convolution, their input's gradients: operands in boxes | what fills the GPU |
| `conv2d_windows`, `conv2d_windows_wgrad` | first layers: windows in boxes; gradient by weights | what fills the GPU |
| `packed_images` | images amid zeros, as windows want them | rows, columns |
| `conv2d_boxes` | convolution with stride 1, its input's gradient: operands in boxes | boxes x columns |
| `conv2d_rows` | the same of few channels, row by row: programs stay, with all filters | what fills the GPU |
| `conv2d_streams` | the same with a stride, or with side sums: programs stay | what fills the GPU |
| `conv2d_packs` | the same of groups with a stride, which are multiplied together: programs stay | what fills the GPU |
| `conv2d_wgrad_boxes` | its gradient by the weights: operands in boxes | rows x columns, 1, splits |
| `conv2d_wgrad_packs` | the same of groups, which are multiplied together | packs, 1, splits |
| `depthwise`, `depthwise_wgrad` | channel by channel: convolution and its gradients | what fills the GPU, columns |
| `pointwise` | element by element, with any side sums | rows, columns |
| `max_pool2d`, `avg_pool2d`, `avg_pool2d_grad` | windows | rows, columns |
| `max_pool2d_blocks`, `avg_pool2d_blocks`, `avg_pool2d_grad_blocks` | windows that overlap | blocks, columns |
| `max_pool2d_grad` | windows, by blocks of pixels | what fills the GPU, columns |
| `resample` | upsampling, adaptive pooling, and their gradients | rows, columns |
| `channel_sum`, `channel_sum_pair`, `sum_partials` | sums over pixels, over partial results | columns, splits |
| `sum_partials_of_many` | the partial results of many tensors | blocks of all of them |
| `finish_filters` | what is made of a weight's gradient filter by filter, as its parts are added up | filters |
| `standardize_filters`, `standardize_filters_grad` | each filter of a weight with mean 0 and variance 1 | filters |
| `batch_stats` (or `store_tile_stats` in an epilogue) | count, mean, M2 per channel of each tile | rows, columns |
| `merge_stats` | the merge of such statistics, where not the last program does it (`is_last`) | columns, splits |
| `softmax`, `softmax_grad`, `cross_entropy` | the loss, and the gradient of the logits | rows |
| `soft_cross_entropy`, `binary_cross_entropy`, `squared_error` | losses of targets that are numbers | rows |
| `mean_rows` | the mean of the rows' losses | one program |
| `local_response_norm`, `local_response_norm_grad` | normalisation across channels, its gradient | rows, columns |
| `sum_channels`, `max_channels`, `max_channels_grad` | sum and maximum over the channels of each pixel | rows |
| `pixel_stats`, `layer_norm_grad` | mean and variance over the channels of each pixel; layer norm's gradient | rows |
| `update_of_many` | one step of the optimiser, for all parameters | pieces of all of them |
| `sums_of_many`, `moments_of_many` | the norms that clipping, LARS and LAMB need | pieces of all of them |
| `to_nchw`, `from_nchw` | a tensor in the other memory order | rows, columns |

Helpers for the generated functions: `round_to`, `dot`, `keep_mask`, `nchw_element`, `max_over_window`,
`mean_over_window`, `mask_over_window`, `tile_stats`, `store_tile_stats`, `image_position`.

Signatures are kept from the formatter: a line for each kind of argument (operands, sizes, tile, options).

What holds everywhere
- Tensors are contiguous and channels last; indices are int32, so a tensor has fewer than 2^31 elements. N, the batch
  size, is a runtime argument; every other size is a constant, and the exact grid is in each template's docstring.
- `mask` broadcasts to the tile, but may be smaller ([BLOCK, 1]); what it hides must load as 0 after any arithmetic.
- All sums are fp32, in an order that the launch fixes. No sum is atomic; programs are counted so (`is_last`).
- In the interpreter a bf16 tile may be loaded, stored and converted, not computed with: it is raw bits there. Convert
  to fp32 before arithmetic, and back by `round_to`.
- A number inside an `args` tuple is a runtime value: write shapes (such as the AREA of a window) into the function.

Tile sizes (BLOCK_M x BLOCK_N x BLOCK_K, warps, stages) that spill nothing, compiled by Triton 3.7 for 3x3 convolutions
of 64 and 128 channels: affine + ReLU prologue, statistics epilogue, all three kernels.

| operands | sm_80, sm_90, sm_100, sm_120, gfx942 | other tiles |
|---|---|---|
| fp16, bf16 | 64x64x64, 4, 3; 128x128x32, 8, 3 | 128x128x64, 8, 3 (sm_100's dgrad: 24 bytes) |
| | | 128x64x64, 8, 3 (sm_100's fprop: 32 bytes) |
| tf32 | 128x128x32, 8, 3 | 128x64x32, 8, 3 and 64x64x32, 4, 3 on sm_90, sm_100, gfx942 |
| fp32 | 64x64x16, 8, 3 (sm_90's fprop: 8 bytes) | 128x64x16, 8, 3 on gfx942 |

Where ptxas stops at 128 registers with 8 warps and spills a few bytes, it chose so for the sake of occupancy: the
launch option maxnreg=255 takes the spill away.
"""
