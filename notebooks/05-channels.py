# %% [markdown]
# # 5. Channels, and 1×1 convolutions
#
# A colour picture has three numbers for each pixel; a layer inside a network has hundreds. This notebook adds up over
# channels, makes new ones, mixes them pixel by pixel, and counts what it costs.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import command, kernel, photograph, show, table

import tricnn

# %% [markdown]
# ## Several channels in
#
# A grey picture has lost what its colours told. Here are three channels, and their mean.

# %%
flower = photograph("flower", step=3)
height, width = flower.shape[2:]
show(
    [flower[0].transpose(1, 2, 0), *flower[0], flower[0].mean(0)],
    ["photograph", "red", "green", "blue", "grey"],
    columns=5,
    size=1.9,
    vmin=0,
    vmax=1,
)

# %% [markdown]
# A kernel has as many channels as its input; each is correlated by itself, and the results are added:
#
# $$\mathbf{Y} = \sum_{i=1}^{c_i} \mathbf{X}_{i,:,:} \star \mathbf{W}_{i,:,:}$$


# %%
def convolved(x, w, stride: int = 1, bias=None) -> np.ndarray:
    """x [C, H, W] by kernels w [K, C, kh, kw], and a bias for each of the K."""
    x, w = np.asarray(x, np.float32), np.asarray(w, np.float32)
    b = tricnn.GraphBuilder("channels")
    layer = b.conv2d(b.input("x", x.shape), len(w), w.shape[2:], stride=stride, bias=bias is not None, name="conv")
    m = tricnn.compile(b.build(layer))
    m.load_state_dict({"conv.weight": w, **({"conv.bias": np.asarray(bias, np.float32)} if bias is not None else {})})
    return m(x[None])[0]


X = np.stack([np.arange(9).reshape(3, 3), np.arange(1, 10).reshape(3, 3)])
W = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
together = convolved(X, [W])[0]
apart = [convolved(X[i : i + 1], [W[i : i + 1]])[0] for i in (0, 1)]
print(apart[0], apart[1], together, sep="\n\n")

# %%
# Check: Dive into Deep Learning, section 7.4: the results of the channels, added.
assert apart[0].tolist() == [[19, 25], [37, 43]]
assert apart[1].tolist() == [[37, 47], [67, 77]]
assert together.tolist() == [[56, 72], [104, 120]]

# %% [markdown]
# ## Several channels out
#
# However many channels go in, one kernel gives one channel. For $c_o$ channels take $c_o$ kernels: the weights have
# four indices, $c_o \times c_i \times k_h \times k_w$, and
#
# $$\mathbf{Y}_{i,:,:} = \mathbf{X} \star \mathbf{W}_{i,:,:,:} \quad\text{for}\quad i = 1, \dots, c_o.$$

# %%
three = convolved(X, [W, W + 1, W + 2])
print(three)

# %%
# Check: Dive into Deep Learning again, three kernels that differ by 1.
assert three.tolist() == [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]

# %% [markdown]
# Each output channel may look for another pattern: edges from left to right, edges from top to bottom, a colour. The
# next layer combines them: an edge here *and* one there is a corner.

# %%
across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 12
orange = np.zeros((3, 3, 3))
orange[:, 1, 1] = [1, -0.5, -0.5]
patterns = convolved(flower[0], [np.stack([across] * 3), np.stack([across.T] * 3), orange])
show(
    [np.abs(patterns[0]), np.abs(patterns[1]), patterns[2].clip(0)],
    ["edges across", "edges down", "more red than green and blue"],
    size=2.8,
    cmap="magma",
)

# %%
# Check: a grey ramp that grows by 1/4 a pixel has only edges across: 3 channels x (1+2+1) x 2/4 / 12; and no colour.
ramp = np.broadcast_to(np.arange(5) / 4, (3, 5, 5))
found = convolved(ramp, [np.stack([across] * 3), np.stack([across.T] * 3), orange])
assert np.allclose(found[0], 3 * 4 * (2 / 4) / 12, atol=1e-6)
assert np.allclose(found[1:], 0, atol=1e-6)

# %% [markdown]
# ## 1×1
#
# With $k_h = k_w = 1$ a convolution does not see shapes at all. It mixes the channels of each pixel: a dense layer
# with weights $c_o \times c_i$ that is applied $n_h n_w$ times. For colours that is old photography.

# %%
sepia = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
swapped = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
mixed = [convolved(flower[0], m[:, :, None, None]) for m in (sepia, swapped)]
show(
    [p.transpose(1, 2, 0).clip(0, 1) for p in (flower[0], *mixed)], ["photograph", "sepia", "colours swapped"], size=2.8
)

b = tricnn.GraphBuilder("dense")
dense = tricnn.compile(b.build(b.linear(b.input("pixel", (3,)), 3, bias=False, name="fc")))
dense.load_state_dict({"fc.weight": sepia.astype(np.float32)})
pixels = flower[0].reshape(3, -1).T  # [H * W, 3]: a batch of pixels
by_dense = dense(pixels).T.reshape(3, height, width)

# %%
# Check: a 1x1 convolution, a dense layer over the pixels, and a matrix product are the same.
assert np.allclose(mixed[0], by_dense, atol=1e-6)
assert np.allclose(mixed[0].reshape(3, -1).T, pixels @ sepia.T, atol=1e-6)
assert np.array_equal(mixed[1], flower[0][[1, 2, 0]])

# %% [markdown]
# ## All of a layer, and its cost
#
# | | |
# |---|---|
# | input $\mathbf{X}$ | $c_i \times n_h \times n_w$ |
# | kernels $\mathbf{W}$ | $c_o \times c_i \times k_h \times k_w$ |
# | bias $\mathbf{B}$ | $c_o$ (the slide says $c_o \times c_i$; there is one for each output channel) |
# | output $\mathbf{Y}$ | $c_o \times m_h \times m_w$ |
# | multiply-adds | $c_i\, c_o\, k_h\, k_w\, m_h\, m_w$ |
#
# The product of the channels is what costs. So networks *squeeze* first: a 1×1 convolution to few channels, the large
# kernel there, and a 1×1 back. That is a bottleneck; GoogLeNet and ResNet-50 are made of it.


# %%
def cost(name: str, *layers: tuple[int, int]) -> tuple[str, int, int]:
    """(name, weights, multiply-adds) of convolutions, each (filters, kernel size), on 256 channels of 28x28 pixels."""
    b = tricnn.GraphBuilder("cost")
    x = b.input("x", (256, 28, 28))
    for filters, size in layers:
        x = b.conv2d(x, filters, size, padding=size // 2, bias=False)
    graph = b.build(x)
    return name, graph.num_parameters, graph.macs


rows = [
    cost("5x5", (256, 5)),
    cost("3x3", (256, 3)),
    cost("1x1", (256, 1)),
    cost("1x1 to 64, 3x3, 1x1 to 256", (64, 1), (64, 3), (256, 1)),
]
table(["256 to 256 channels", "weights", "multiply-adds"], rows)
figure, axis = plt.subplots(figsize=(7, 2.2))
axis.barh([name for name, *_ in rows], [macs / 1e6 for *_, macs in rows], color="#4c78a8")
axis.set(xlabel="million multiply-adds", title="What 256 channels of 28x28 cost")
axis.invert_yaxis()
plt.show()

# %%
# Check: the formula; and the lecture's layer, 100 to 100 channels, 5x5, 64x64: 1 GFLOP.
assert rows[0][1:] == (256 * 256 * 25, 256 * 256 * 25 * 28 * 28)
assert rows[3][1] == 256 * 64 + 64 * 64 * 9 + 64 * 256
b = tricnn.GraphBuilder("lecture")
layer = b.build(b.conv2d(b.input("x", (100, 64, 64)), 100, 5, padding=2, name="conv"))
shown = command("show", layer)
assert shown["macs"] == 100 * 100 * 5 * 5 * 64 * 64 and round(shown["macs"] / 1e9) == 1
assert shown["parameters"] == 100 * 100 * 5 * 5 + 100  # a bias for each output channel

# %% [markdown]
# ## Exercises
#
# 1. Two 1×1 convolutions, one after the other, are one. Which matrix does it have? What if a ReLU stands between
#    them?
# 2. `groups=2` correlates half of the input channels with half of the kernels. How many weights has a 3×3 layer of
#    256 channels then, and how many with `groups=256`?
# 3. Find weights of a 1×1 convolution with two outputs: brightness, and how far a pixel is from grey. Is the second
#    one possible without a ReLU?
# 4. From how many channels on is the bottleneck above cheaper than the 3×3, if it always squeezes to a quarter?
#
# ## What the compiler made of it
#
# In memory the channels of a pixel lie side by side (NHWC), so a 1×1 convolution *is* a product of matrices, [N·H·W,
# $c_i$] by [$c_i$, $c_o$], and on a Hopper GPU both come in whole boxes by its bulk copies (`matmul_boxes`). The 3×3
# between them takes boxes that are moved by a tap (`conv2d_boxes`).

# %%
b = tricnn.GraphBuilder("bottleneck")
x = b.input("x", (256, 28, 28))
for number, (filters, size) in enumerate(((64, 1), (64, 3), (256, 1)), 1):
    x = b.relu(b.conv2d(x, filters, size, padding=size // 2, bias=False, name=f"conv{number}"))
m = tricnn.compile(b.build(x), batch=256, dtype="bf16", target="sm_90")
print(m.plan)
print()
print(kernel(m, "k00_conv1"))
print()
print(kernel(m, "k01_conv2"))
