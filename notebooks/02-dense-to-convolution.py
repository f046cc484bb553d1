# %% [markdown]
# # 2. From dense layers to convolutions
#
# A dense layer connects every input to every output. For a photograph that is hopeless. Two observations about
# pictures turn it into a convolution: what we look for may be **anywhere**, and it is **small**. This notebook takes
# the lecture's equations one by one and checks each of them with numbers.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import kernel, show, table

import tricnn

# %% [markdown]
# ## Cats, dogs and 36 million numbers
#
# A phone's camera takes 12 million pixels, red, green and blue: 36 million features. One hidden layer of 100 units,
#
# $$\mathbf{h} = \sigma(\mathbf{W}\mathbf{x} + \mathbf{b}),$$
#
# has a weight for each pair.

# %%
b = tricnn.GraphBuilder("photograph")
dense = b.build(b.linear(b.input("x", (36_000_000,)), 100, bias=False, name="hidden"))
print(f"{dense.num_parameters:,} weights, {dense.num_parameters * 4 / 1e9:.1f} GB in fp32")

# %%
# Check: 3.6 billion weights, the slide's 14 GB; more than the 900 million dogs and 600 million cats on earth.
assert dense.num_parameters == 3_600_000_000
assert int(dense.num_parameters * 4 / 1e9) == 14
assert dense.num_parameters > 900_000_000 + 600_000_000

# %%
figure, axis = plt.subplots(figsize=(7, 1.8))
axis.barh(["cats", "dogs", "weights of one layer"], [0.6, 0.9, 3.6], color=["#54a24b", "#54a24b", "#e45756"])
axis.set(xlabel="thousand million", title="A weight for every cat and dog, and more")
plt.show()

# %% [markdown]
# ## The same layer, written for pictures
#
# Keep input and output as pictures. The weights then have four indices: from pixel $(k, l)$ to pixel $(i, j)$.
# Measure the input's position *from the output's*, $k = i + a$ and $l = j + b$, and nothing has changed but names:
#
# $$h_{i,j} = \sum_{k,l} w_{i,j,k,l}\, x_{k,l} = \sum_{a,b} v_{i,j,a,b}\, x_{i+a,\,j+b},
# \qquad v_{i,j,a,b} = w_{i,j,\,i+a,\,j+b}.$$
#
# On 6×6 pixels we can afford all 6⁴ weights, as a dense layer from 36 to 36 numbers.

# %%
n = 6
rng = np.random.default_rng(0)
w = rng.standard_normal((n, n, n, n)).astype(np.float32)
x = rng.standard_normal((n, n)).astype(np.float32)

b = tricnn.GraphBuilder("dense")
m = tricnn.compile(b.build(b.linear(b.input("x", (n * n,)), n * n, bias=False, name="fc")))
m.load_state_dict({"fc.weight": w.reshape(n * n, n * n)})
h = m(x.reshape(1, n * n)).reshape(n, n)

h_from_v = np.zeros((n, n))
for i in range(n):
    for j in range(n):
        for a in range(-i, n - i):
            for c in range(-j, n - j):
                h_from_v[i, j] += w[i, j, i + a, j + c] * x[i + a, j + c]
print(np.round(h[0], 3))
print(np.round(h_from_v[0], 3))

# %%
# Check: the second sum is the first one.
assert np.allclose(h, h_from_v, atol=1e-5)

# %% [markdown]
# ## Idea 1: it does not matter where
#
# If the picture moves, what is found should move with it, and not change its value. So $v$ must not depend on
# $(i, j)$:
#
# $$h_{i,j} = \sum_{a,b} v_{a,b}\, x_{i+a,\,j+b}.$$
#
# This is the two-dimensional **cross-correlation**, which everybody calls convolution.
#
# ## Idea 2: it is enough to look near by
#
# What is further than $\Delta$ away does not matter, $v_{a,b} = 0$ for $|a| > \Delta$ or $|b| > \Delta$:
#
# $$h_{i,j} = \sum_{a=-\Delta}^{\Delta}\ \sum_{b=-\Delta}^{\Delta} v_{a,b}\, x_{i+a,\,j+b}.$$
#
# As matrices $W$ of the dense layer, these ideas can be seen: row by row, the same numbers move along; then most of
# them are zero.


# %%
def matrix(v: np.ndarray, size: int) -> np.ndarray:
    """The dense layer's weights, [size², size²], that a kernel v of (2Δ+1) x (2Δ+1) numbers stands for."""
    reach = len(v) // 2
    full = np.zeros((size, size, size, size), np.float32)
    for i in range(size):
        for j in range(size):
            for a in range(-reach, reach + 1):
                for c in range(-reach, reach + 1):
                    if 0 <= i + a < size and 0 <= j + c < size:
                        full[i, j, i + a, j + c] = v[reach + a, reach + c]
    return full.reshape(size * size, size * size)


anywhere = rng.standard_normal((2 * n - 1, 2 * n - 1)).astype(np.float32)
local = rng.standard_normal((3, 3)).astype(np.float32)
show(
    [w.reshape(n * n, n * n), matrix(anywhere, n), matrix(local, n)],
    ["dense: 1,296 numbers", "anywhere: 121 numbers", "anywhere and local: 9 numbers"],
    size=3.2,
    cmap="coolwarm",
    vmin=-3,
    vmax=3,
)

# %% [markdown]
# The last matrix and a 3×3 convolution are one function. (`padding=1` surrounds the picture with zeros, so that the
# result has its size: notebook 4.)

# %%
b = tricnn.GraphBuilder("convolution")
convolution = b.build(b.conv2d(b.input("x", (1, n, n)), 1, 3, padding=1, bias=False, name="conv"))
conv = tricnn.compile(convolution)
conv.load_state_dict({"conv.weight": local[None, None]})
m.load_state_dict({"fc.weight": matrix(local, n)})
by_convolution = conv(x[None, None])[0, 0]
by_dense = m(x.reshape(1, n * n)).reshape(n, n)

# %%
# Check: a convolution is a dense layer whose weights obey the two ideas. Nine numbers do the work of 1,296.
assert np.allclose(by_convolution, by_dense, atol=1e-5)
assert convolution.num_parameters == 9 and w.size == 6**4 == 1296
assert len(np.unique(matrix(local, n))) == 9 + 1  # and zero

# %% [markdown]
# And moved input gives moved output: $h(\text{shift}(x)) = \text{shift}(h(x))$, for the convolution only.

# %%
spot = np.zeros((n, n), np.float32)
spot[1:3, 1:3] = 1
moved = np.roll(spot, (2, 1), (0, 1))
m.load_state_dict({"fc.weight": w.reshape(n * n, n * n)})
pictures = [spot, conv(spot[None, None])[0, 0], m(spot.reshape(1, -1)).reshape(n, n)]
pictures += [moved, conv(moved[None, None])[0, 0], m(moved.reshape(1, -1)).reshape(n, n)]
show(pictures, ["x", "convolution", "dense", "x moved", "convolution: moved", "dense: another one"], columns=3, size=2)

# %%
# Check: the convolution of the moved spot is the moved convolution; the dense layer knows nothing of the kind.
assert np.allclose(pictures[4], np.roll(pictures[1], (2, 1), (0, 1)), atol=1e-6)
assert not np.allclose(pictures[5], np.roll(pictures[2], (2, 1), (0, 1)), atol=0.1)

# %% [markdown]
# What is left to learn, for pictures of $n \times n$ pixels:

# %%
sizes = np.array([8, 32, 224, 3464])  # the last squared is 12 million pixels
numbers = {
    "dense, $n^4$": sizes.astype(float) ** 4,
    "anywhere, $(2n-1)^2$": (2.0 * sizes - 1) ** 2,
    "and local, $5^2$": 25.0 + 0 * sizes,
}
table(
    ["pixels", "dense", "anywhere", "local, Δ = 2"],
    [(f"{s}x{s}", int(s) ** 4, (2 * int(s) - 1) ** 2, 25) for s in sizes],
)
figure, axis = plt.subplots(figsize=(6, 3))
for name, count in numbers.items():
    axis.plot(sizes, count, "o-", label=name)
axis.set(xscale="log", yscale="log", xlabel="n", title="Numbers to learn for n x n pixels")
axis.legend()
plt.show()

# %% [markdown]
# ## Where is Waldo?
#
# A toy Waldo: a head, and a pullover of stripes, 9×5 pixels. He hides in a crowd of pixels, among people who wear
# stripes that run the other way.

# %%
waldo = np.array(
    [
        [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0],
        [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1],
        [0, 1, 0, 1, 0],
    ],
    np.float32,
)  # fmt: skip
other = waldo.copy()
other[3:8] = np.array([1, 0, 1, 0, 1])


def scene(where: tuple[int, int], seed: int) -> np.ndarray:
    """A crowd of 64x64 pixels with Waldo's upper left corner at ``where``."""
    crowd = np.random.default_rng(seed)
    picture = 0.5 * crowd.random((64, 64)).astype(np.float32)
    for row, column in crowd.integers(0, (55, 59), (25, 2)):
        picture[row : row + 9, column : column + 5] = other
    picture[where[0] : where[0] + 9, where[1] : where[1] + 5] = waldo
    return picture


# %% [markdown]
# A detector of 45 numbers is enough: Waldo himself, minus his mean so that bright places do not excite it. Where the
# convolution is largest, there he is.

# %%
b = tricnn.GraphBuilder("waldo")
find = tricnn.compile(b.build(b.conv2d(b.input("scene", (1, 64, 64)), 1, (9, 5), bias=False, name="detector")))
find.load_state_dict({"detector.weight": (waldo - waldo.mean())[None, None]})

picture = scene((40, 17), seed=3)
response = find(picture[None, None])[0, 0]
row, column = np.unravel_index(response.argmax(), response.shape)
figure, axes = plt.subplots(1, 3, figsize=(10, 4), width_ratios=[1, 4, 4])
for axis, image, title in zip(axes, (waldo, picture, response), ("Waldo", "the crowd", "response of the convolution")):
    axis.imshow(image, vmin=0)
    axis.set_title(title)
    axis.axis("off")
axes[1].add_patch(plt.Rectangle((column - 0.5, row - 0.5), 5, 9, fill=False, color="#e45756", linewidth=2))
axes[2].add_patch(plt.Circle((column, row), 3, fill=False, color="#e45756", linewidth=2))
plt.show()
print("found at", (int(row), int(column)))

# %% [markdown]
# Had we taught a dense unit instead, from one picture with Waldo in the middle, it would know him there and nowhere
# else. Move him through the picture and draw what each detector says.

# %%
middle = (27, 29)
unit = np.zeros((64, 64), np.float32)
unit[27:36, 29:34] = waldo - waldo.mean()
said = {"dense unit": np.zeros((56, 60)), "largest of the convolution": np.zeros((56, 60))}
for i in range(56):
    batch = np.zeros((60, 1, 64, 64), np.float32)
    for j in range(60):
        batch[j, 0, i : i + 9, j : j + 5] = waldo
    said["dense unit"][i] = (batch[:, 0] * unit).sum((1, 2))
    said["largest of the convolution"][i] = find(batch).max((1, 2, 3))
show(said.values(), said.keys(), size=3.4, vmin=0, vmax=11, cmap="viridis")

# %%
# Check: he is found wherever he hides; a dense unit says the full value at one place of 3,360.
for seed in range(20):
    where = tuple(int(v) for v in np.random.default_rng(100 + seed).integers(0, (55, 59)))
    heard = find(scene(where, seed)[None, None])[0, 0]
    assert np.unravel_index(heard.argmax(), heard.shape) == where
full = ((waldo - waldo.mean()) * waldo).sum()
assert (said["dense unit"] > 0.99 * full).sum() == 1
assert np.allclose(said["largest of the convolution"], full, rtol=1e-5)

# %% [markdown]
# ## Exercises
#
# 1. How large is the layer of 100 units if every unit is a 5×5 convolution over the red, green and blue pixels? How
#    many numbers does it give for one photograph, and is that a problem?
# 2. Give `matrix` a kernel of 5×5. Which share of its numbers is zero, for pictures of 6×6 and of 32×32?
# 3. Turn Waldo's picture upside down. Is he still found? Which third idea would a detector need that does not mind?
# 4. Make the crowd brighter, `picture + 2`. Why does the detector not care, except at the crowd's edge? Try it
#    without subtracting the mean.
#
# ## What the compiler made of it
#
# Dense layer and convolution are the same loop for the compiler, a product of matrices. The convolution's rows are
# windows, which are gathered as they are needed: an *implicit* matrix, the one that was drawn above, is never stored.

# %%
print(conv.plan)
print()
print(kernel(conv, "k00_conv"))
print()
print(m.plan)
