# %% [markdown]
# # 4. Padding and stride
#
# A convolution makes a picture smaller. Padding keeps its size, strides shrink it on purpose. Both are a formula for
# the number of rows that come out, and here each formula is held to what a compiled layer really gives.

# %%
from math import ceil, floor

import matplotlib.pyplot as plt
import numpy as np
from lesson import command, kernel, photograph, show, table

import tricnn


def rows(n: int, k: int, padding=0, stride: int = 1) -> int:
    """The rows that a k x k convolution makes of n, by running one."""
    b = tricnn.GraphBuilder("size")
    layer = b.build(b.conv2d(b.input("x", (1, n, n)), 1, k, padding=padding, stride=stride))
    return tricnn.compile(layer)(np.zeros((1, 1, n, n), np.float32)).shape[2]


# %% [markdown]
# ## Without padding
#
# A window of $k$ rows fits into $n$ rows at $n - k + 1$ places. So 5×5 kernels take 4 rows and columns off, each
# time: a 32×32 picture is 28×28 after one layer and 4×4 after seven.

# %%
after_one = rows(32, 5)
sides = [32]
while sides[-1] >= 5:
    sides.append(rows(sides[-1], 5))
print(sides)

# %%
# Check: the slide's figures, one layer and seven.
assert after_one == 28
assert sides[7] == 4 and len(sides) == 8

# %% [markdown]
# For a photograph of 224×224 the slide says that 44 layers of 5×5 leave 4×4. It is not so: each layer takes four
# rows, $(224 - 4) / 4 = 55$ layers are needed, and 44 leave 48×48. Either way that is far too much computation; hence
# strides.

# %%
deep = 224 - 4 * np.arange(56)
figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(deep, color="#4c78a8")
axis.plot(sides, color="#54a24b")
for layers, side in ((44, 48), (55, 4), (7, 4)):
    axis.plot(layers, side, "o", color="#e45756")
    axis.annotate(f"{side}x{side} after {layers}", (layers, side), (layers - 3, side + 14), fontsize=9)
axis.set(xlabel="layers of 5x5", ylabel="rows", title="Without padding, pictures melt away")
plt.show()

# %%
# Check: by declaring all 55 layers.
b = tricnn.GraphBuilder("deep")
x = b.input("x", (1, 224, 224))
for _ in range(55):
    x = b.conv2d(x, 1, 5)
layers = [layer["output_shape"] for layer in command("show", b.build(x))["layers"] if layer["op"] == "conv2d"]
assert layers[43] == [1, 1, 48, 48] and layers[54] == [1, 1, 4, 4]

# %% [markdown]
# ## Padding
#
# With $p_h$ rows and $p_w$ columns of zeros around the picture, in all, the result has
#
# $$(n_h - k_h + p_h + 1) \times (n_w - k_w + p_w + 1)$$
#
# numbers. Usually $p_h = k_h - 1$ and $p_w = k_w - 1$, which keeps the size. An odd $k$ has $p/2$ on both sides. An
# even one cannot: it has $\lceil p/2 \rceil$ above and $\lfloor p/2 \rfloor$ below. So `padding` may have four
# numbers: top, bottom, left and right.

# %%
X = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
W = np.array([[0, 1], [2, 3]], np.float32)[None, None]


def convolved(padding=0, stride=1) -> np.ndarray:
    b = tricnn.GraphBuilder("example")
    layer = b.build(b.conv2d(b.input("x", (1, 3, 3)), 1, 2, padding=padding, stride=stride, bias=False, name="conv"))
    m = tricnn.compile(layer)
    m.load_state_dict({"conv.weight": W})
    return m(X)[0, 0]


both, above, below = convolved(1), convolved((1, 0, 1, 0)), convolved((0, 1, 0, 1))
print(both, above, below, sep="\n\n")

# %%
# Check: 0*0 + 0*1 + 0*2 + 0*3 = 0 in the corner; the four numbers of the unpadded result are inside; 3x3 stays 3x3.
assert both.tolist() == [[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]
assert above.tolist() == [[0, 3, 8], [9, 19, 25], [21, 37, 43]]
assert below.tolist() == [[19, 25, 10], [37, 43, 16], [7, 8, 0]]


# %%
def draw(axis, padding, stride, title):
    """The padded 3x3 input: its numbers, its zeros, and where the 2x2 window stands."""
    top, bottom, left, right = padding
    grid = np.pad(X[0, 0], ((top, bottom), (left, right)))
    for (i, j), value in np.ndenumerate(grid):
        inside = top <= i < top + 3 and left <= j < left + 3
        axis.add_patch(plt.Rectangle((j, i), 1, 1, facecolor="white" if inside else "#dddddd", edgecolor="grey"))
        axis.text(j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center")
    for i in range(0, grid.shape[0] - 1, stride[0]):
        for j in range(0, grid.shape[1] - 1, stride[1]):
            corner = (j + 0.06, i + 0.06)
            axis.add_patch(plt.Rectangle(corner, 1.88, 1.88, facecolor="#f58518", alpha=0.25, edgecolor="#e45756"))
    axis.set(xlim=(-0.1, 5.1), ylim=(5.1, -0.1), aspect="equal", title=title)
    axis.axis("off")


figure, axes = plt.subplots(1, 4, figsize=(11, 3))
draw(axes[0], (0, 0, 0, 0), (1, 1), "no padding: 2x2")
draw(axes[1], (1, 1, 1, 1), (1, 1), "1 on all sides: 4x4")
draw(axes[2], (1, 0, 1, 0), (1, 1), "1 above, 0 below: 3x3")
draw(axes[3], (1, 1, 1, 1), (3, 2), "stride 3 and 2: 2x2")
plt.show()

# %% [markdown]
# An even kernel cannot be centred, so its result lies half a pixel beside its input. Twenty layers of a 2×2 mean,
# padded above and to the left every time, move the photograph by ten pixels; padded in turn above and below, it
# stays.

# %%
photo = photograph("flower", step=4).mean(1, keepdims=True)
height, width = photo.shape[2:]


def blurred(paddings) -> np.ndarray:
    b = tricnn.GraphBuilder("twenty")
    x = b.input("x", (1, height, width))
    for number, padding in enumerate(paddings):
        x = b.conv2d(x, 1, 2, padding=padding, bias=False, name=f"conv{number}")
    m = tricnn.compile(b.build(x))
    m.load_state_dict({f"conv{i}.weight": np.full((1, 1, 2, 2), 0.25, np.float32) for i in range(len(paddings))})
    return m(photo)


drifted = blurred([(1, 0, 1, 0)] * 20)
stayed = blurred([(1, 0, 1, 0), (0, 1, 0, 1)] * 10)
show([p[0, 0] for p in (photo, drifted, stayed)], ["photograph", "always above and left", "in turn"], size=3)

# %%
# Check: the pictures are the same but for (10, 10) pixels. (Away from the border, which sees the zeros.)
assert drifted.shape == stayed.shape == photo.shape
assert np.allclose(drifted[0, 0, 40:-10, 40:-10], stayed[0, 0, 30:-20, 30:-20], atol=1e-5)

# %% [markdown]
# ## Stride
#
# The stride is how many rows and columns the window moves at a time. With $s_h$ and $s_w$ the result has
#
# $$\lfloor (n_h - k_h + p_h + s_h)/s_h \rfloor \times \lfloor (n_w - k_w + p_w + s_w)/s_w \rfloor$$
#
# numbers. With $p = k - 1$ that is $\lfloor (n + s - 1)/s \rfloor$ in each direction, and $n/s$ where $s$ divides
# $n$. The slide's example has stride 3 down and 2 across: the last picture above.

# %%
strided = convolved(1, (3, 2))
print(strided)

# %%
# Check: 0*0 + 0*1 + 1*2 + 2*3 = 8 and 0*0 + 6*1 + 0*2 + 0*3 = 6.
assert strided.tolist() == [[0, 8], [6, 8]]
# And all formulas, for all kernels up to 7, on compiled layers.
for n in (8, 12):
    for k in range(1, 8):
        p = k - 1
        same = (ceil(p / 2), floor(p / 2), ceil(p / 2), floor(p / 2))
        assert rows(n, k) == n - k + 1
        assert rows(n, k, same) == n
        for s in (2, 3, 4):
            assert rows(n, k, 0, s) == (n - k + s) // s
            assert rows(n, k, same, s) == (n + s - 1) // s
            assert n % s or rows(n, k, same, s) == n // s

# %% [markdown]
# ## What they cost
#
# A stride of 2 makes a quarter of the numbers, and so a quarter of the work of this layer and of all that follow.
# Here are five layers of 64 channels on a 224×224 picture, with strides and without.

# %%
work = {}
for name, strides in (("stride 1", (1, 1, 1, 1, 1)), ("stride 2, five times", (2, 2, 2, 2, 2))):
    b = tricnn.GraphBuilder("five")
    x = b.input("x", (64, 224, 224))
    for stride in strides:
        x = b.conv2d(x, 64, 3, padding=1, stride=stride, bias=False)
    graph = b.build(x)
    work[name] = [layer["macs"] for layer in command("show", graph)["layers"] if layer["op"] == "conv2d"]
table(["multiply-adds", *(f"layer {i}" for i in range(1, 6))], [(name, *macs) for name, macs in work.items()])
figure, axis = plt.subplots(figsize=(6, 2.6))
for name, macs in work.items():
    axis.semilogy(range(1, 6), macs, "o-", label=name)
axis.set(xlabel="layer", ylabel="multiply-adds", xticks=range(1, 6))
axis.legend()
plt.show()

# %%
# Check: the formula, and its quarter, sixteenth, ...
assert work["stride 1"] == [64 * 64 * 9 * 224 * 224] * 5
assert work["stride 2, five times"] == [64 * 64 * 9 * (224 >> i) ** 2 for i in range(1, 6)]

# %% [markdown]
# ## Exercises
#
# 1. Which padding keeps the size for a 3×3 kernel with `dilation=2`? (`b.conv2d(..., dilation=2)` spreads the window:
#    it reaches over 5 rows.)
# 2. `stride=2` with an even number of rows and `padding=1`, $k = 3$: which row of zeros is never looked at?
# 3. How many pixels of the picture does one number see after five 3×3 layers with stride 1? After five with stride 2?
# 4. Write a layer that keeps the size with a 4×4 kernel and is moved to the left instead of to the right.
#
# ## What the compiler made of it
#
# Padding is never stored: where the window leaves the picture, the kernel's loads are masked and give zero. `PT` and
# `PL` are the rows above and the columns to the left, `SH` and `SW` the strides.

# %%
b = tricnn.GraphBuilder("strided")
m = tricnn.compile(b.build(b.conv2d(b.input("x", (1, 3, 3)), 1, 2, padding=1, stride=(3, 2), name="conv")))
print(m.plan)
print()
print(kernel(m, "k00_conv"))
