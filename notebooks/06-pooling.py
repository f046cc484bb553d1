# %% [markdown]
# # 6. Pooling
#
# A convolution says exactly where something is. That is more than we want to know: light, position, size and shape
# vary, and a cat that sits one pixel further to the left is the same cat. Pooling forgets a little.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import kernel, photograph, show

import tricnn

# %% [markdown]
# ## One pixel too far
#
# A kernel `[1, -1]` finds vertical edges. Move the picture by a pixel, and where there was a 1 there is a 0.


# %%
def run(declare, x, **weights) -> np.ndarray:
    """What the layers that ``declare(b, x)`` adds make of one picture [H, W]."""
    x = np.asarray(x, np.float32)
    b = tricnn.GraphBuilder("example")
    m = tricnn.compile(b.build(declare(b, b.input("x", (1, *x.shape)))))
    m.load_state_dict({name.replace("__", "."): np.asarray(w, np.float32) for name, w in weights.items()})
    return m(x[None, None])[0, 0]


def edge(b, x):
    return b.conv2d(x, 1, (1, 2), bias=False, name="conv")


X = np.tile([1, 1, 0, 0, 0], (4, 1))
moved = np.tile([1, 1, 1, 0, 0], (4, 1))
EDGE = [[[[1, -1]]]]
Y, Y_moved = run(edge, X, conv__weight=EDGE), run(edge, moved, conv__weight=EDGE)
print(Y[0], Y_moved[0])

# %%
# Check: the slide's matrices.
assert Y.tolist() == [[0, 1, 0, 0]] * 4
assert Y_moved.tolist() == [[0, 0, 1, 0]] * 4

# %% [markdown]
# ## The largest of a window
#
# **Max pooling** slides a window like a convolution does, and takes its largest number:
# $\max(0, 1, 3, 4) = 4$.

# %%
grid = np.arange(9).reshape(3, 3)
largest = run(lambda b, x: b.max_pool2d(x, 2, stride=1), grid)
mean = run(lambda b, x: b.avg_pool2d(x, 2, stride=1), grid)
print(largest, mean, sep="\n\n")

# %%
# Check: by hand; the mean of 0, 1, 3 and 4 is 2.
assert largest.tolist() == [[4, 5], [7, 8]]
assert mean.tolist() == [[2, 3], [5, 6]]

# %% [markdown]
# After the edge detector, a window of two columns answers both for the edge in its place and for the one that moved:
# column 1 says 1 both times. The slide shows `[1, 1, 1, 0]` for 2×2; two columns can show an edge twice only, and it
# takes a window three wide for that row.


# %%
def pooled_edge(b, x):
    return b.max_pool2d(edge(b, x), 2, stride=1, padding=(0, 1, 0, 1))


pooled, pooled_moved = run(pooled_edge, X, conv__weight=EDGE), run(pooled_edge, moved, conv__weight=EDGE)
three = run(lambda b, x: b.max_pool2d(edge(b, x), (1, 3), 1, padding=(0, 1)), X, conv__weight=EDGE)
titles = ["X", "edges", "pooled", "X moved", "edges", "pooled"]
show([X, Y, pooled, moved, Y_moved, pooled_moved], titles, columns=3, size=2.2, cmap="cividis")
print(pooled[0], pooled_moved[0], three[0])

# %%
# Check: the tolerance, and the slide's row.
assert pooled.tolist() == [[1, 1, 0, 0]] * 4 and pooled_moved.tolist() == [[0, 1, 1, 0]] * 4
assert pooled[0, 1] == pooled_moved[0, 1] == 1
assert three.tolist() == [[1, 1, 1, 0]] * 4

# %% [markdown]
# How much do the numbers change when a photograph moves? Below, the picture is moved by 0 to 8 pixels; the curves say
# how alike (correlated) the features of the moved picture and of the original are, number by number.

# %%
photo = photograph("china", step=2).mean(1)[0]
photo = (photo - photo.mean()) / photo.std()


def features(window: int, shift: int) -> np.ndarray:
    """Edges of the picture moved by ``shift``, then the largest of every window x window, one number for each."""
    x = photo[20:180, 60 + shift : 220 + shift]

    def layers(b, x):
        x = b.relu(b.conv2d(x, 1, 3, padding=1, bias=False, name="conv"))
        return b.max_pool2d(x, window) if window > 1 else x

    return run(layers, x, conv__weight=[[[[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]]]).ravel()


shifts = range(9)
alike = {w: [np.corrcoef(features(w, 0), features(w, s))[0, 1] for s in shifts] for w in (1, 2, 4, 8)}
figure, axis = plt.subplots(figsize=(6.5, 3))
for window, values in alike.items():
    axis.plot(shifts, values, "o-", label=f"{window}x{window}" if window > 1 else "no pooling")
axis.set(xlabel="pixels moved", ylabel="correlation", title="Larger windows forgive more")
axis.legend()
plt.show()

# %%
# Check: unmoved is the same; moved by a pixel, the larger the window, the more alike.
assert all(abs(values[0] - 1) < 1e-6 for values in alike.values())
assert alike[1][1] < alike[2][1] < alike[4][1] < alike[8][1]

# %% [markdown]
# ## Maximum and mean
#
# Average pooling takes the mean of the window instead: the strength that the signal has on the whole, where the
# maximum says the strongest. On a photograph one brightens, the other softens.

# %%
flower = photograph("flower", step=3)


def pool(kind: str, size: int, **options) -> np.ndarray:
    b = tricnn.GraphBuilder("pool")
    x = b.input("x", flower.shape[1:])
    return tricnn.compile(b.build(getattr(b, f"{kind}_pool2d")(x, size, **options)))(flower)


pictures = [flower, pool("max", 6), pool("avg", 6)]
show([p[0].transpose(1, 2, 0) for p in pictures], ["photograph", "maximum of 6x6", "mean of 6x6"], size=2.7)
print(pictures[0].shape, "->", pictures[1].shape)

# %%
# Check: PyTorch pools the same; every colour by itself, so three stay three; and nothing is learnt.
assert np.array_equal(pictures[1], torch.nn.functional.max_pool2d(torch.from_numpy(flower), 6).numpy())
assert np.allclose(pictures[2], torch.nn.functional.avg_pool2d(torch.from_numpy(flower), 6).numpy(), atol=1e-6)
assert pictures[1].shape == (1, 3, flower.shape[2] // 6, flower.shape[3] // 6)
b = tricnn.GraphBuilder("nothing")
assert b.build(b.max_pool2d(b.input("x", (3, 8, 8)), 2)).num_parameters == 0

# %% [markdown]
# ## Padding, stride, channels
#
# are as for a convolution, except that the stride is the window's size unless it is said: windows side by side.
# Padding counts as $-\infty$ for the maximum. 4×4 by 3×3:

# %%
sixteen = np.arange(16).reshape(4, 4)
apart = run(lambda b, x: b.max_pool2d(x, 3), sixteen)
padded = run(lambda b, x: b.max_pool2d(x, 3, stride=2, padding=1), sixteen)
uneven = run(lambda b, x: b.max_pool2d(x, (2, 3), stride=(2, 3), padding=(0, 0, 1, 1)), sixteen)
print(apart, padded, uneven, sep="\n\n")

# %%
# Check: Dive into Deep Learning, section 7.5.
assert apart.tolist() == [[10]]
assert padded.tolist() == uneven.tolist() == [[5, 7], [13, 15]]

# %% [markdown]
# A window as large as the picture leaves one number for each channel: **global average pooling**. GoogLeNet and
# ResNet end with it instead of with millions of dense weights.

# %%
b = tricnn.GraphBuilder("global")
everything = tricnn.compile(b.build(b.global_avg_pool(b.input("x", flower.shape[1:]))))(flower)
print(everything.reshape(3), "is the mean colour")

# %%
# Check: the mean of each channel.
assert np.allclose(everything.reshape(3), flower.mean((0, 2, 3)), atol=1e-5)

# %% [markdown]
# ## Backwards
#
# The gradient of a maximum goes to the one number that was the largest; that of a mean goes to all, equally. So in
# training a layer must remember where the maximum was. tricnn stores its position in the window, one byte for each
# number that comes out.
#
# ## Exercises
#
# 1. Is average pooling a convolution? Which one? And maximum pooling?
# 2. Replace the maximum by the minimum. (There is no such layer, but $\min(x) = -\max(-x)$.) What happens to the
#    flower?
# 3. Why is padding $-\infty$ for the maximum, and what would go wrong with 0 behind a ReLU? Behind a convolution?
# 4. Draw the curves of tolerance for average pooling. Which is more tolerant?
#
# ## What the compiler made of it
#
# Convolution, ReLU and pooling are one kernel. A program computes whole windows, so the large picture between them is
# never stored: `max_over_window` takes the largest of four rows of the product's tile. For training, the same
# kernel also leaves the positions.

# %%
b = tricnn.GraphBuilder("edges")
x = b.max_pool2d(b.relu(b.conv2d(b.input("x", (1, 28, 28)), 8, 3, padding=1, name="conv")), 2, name="pool")
graph = b.build(b.linear(x, 10, name="fc"))
m = tricnn.compile(graph, target="sm_90")
print(m.plan)
print()
print(tricnn.compile(graph, mode="train", target="sm_90").plan)
print()
print(kernel(m, "k00_conv"))
