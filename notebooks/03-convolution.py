# %% [markdown]
# # 3. Convolution: edges, sharpening, blur, and learning a kernel
#
# A small grid of numbers slides over a picture. Which numbers they are decides what comes out: edges, a sharper
# picture, a softer one. First we choose them, on a real photograph; then we let them be learnt from data.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import kernel, photograph, show

import tricnn

# %% [markdown]
# ## Multiply, add, move on
#
# $$\mathbf{Y} = \mathbf{X} \star \mathbf{W} + b, \qquad
# y_{i,j} = \sum_{a=0}^{k_h-1}\ \sum_{c=0}^{k_w-1} w_{a,c}\, x_{i+a,\,j+c} + b$$
#
# $\mathbf{X}$ has $n_h \times n_w$ numbers, the kernel $\mathbf{W}$ has $k_h \times k_w$, and the result
# $(n_h - k_h + 1) \times (n_w - k_w + 1)$. $\mathbf{W}$ and $b$ are what can be learnt. The lecture's example:


# %%
def filtered(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [H, W] correlated with the kernel w [kh, kw], by a compiled convolution."""
    b = tricnn.GraphBuilder("filter")
    m = tricnn.compile(b.build(b.conv2d(b.input("x", (1, *x.shape)), 1, w.shape, bias=False, name="conv")))
    m.load_state_dict({"conv.weight": np.asarray(w, np.float32)[None, None]})
    return m(np.asarray(x, np.float32)[None, None])[0, 0]


X = np.arange(9).reshape(3, 3)
W = np.array([[0, 1], [2, 3]])
Y = filtered(X, W)
print(Y)

# %%
# Check: 0*0 + 1*1 + 3*2 + 4*3 = 19, and so on; the numbers of the slide.
assert Y.tolist() == [[19, 25], [37, 43]]


# %%
def draw(axis, grid, title, marked=None, colour="#f58518"):
    axis.imshow(np.zeros_like(grid, float), cmap="Greys", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(grid):
        axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=12)
        axis.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, color="grey"))
    if marked:
        row, column, height, width = marked
        axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), width, height, color=colour, alpha=0.35))
    axis.set_title(title, fontsize=10)
    axis.axis("off")


figure, axes = plt.subplots(2, 6, figsize=(11, 3.8), width_ratios=[3, 2, 2, 3, 2, 2])
for number, (i, j) in enumerate(np.ndindex(2, 2)):
    left, middle, right = axes[number // 2, 3 * (number % 2) : 3 * (number % 2) + 3]
    draw(left, X, "input", (i, j, 2, 2))
    draw(middle, W, "$\\star$ kernel")
    draw(right, Y, "= output", (i, j, 1, 1))
plt.show()

# %% [markdown]
# In mathematics a *convolution* turns the kernel by 180° first. Networks do not: their kernels are learnt, and would
# only be learnt turned round. What all libraries call convolution is a cross-correlation.

# %%
x, w = torch.arange(9.0).reshape(1, 1, 3, 3), torch.tensor([[[[0.0, 1], [2, 3]]]])
print("correlation ", torch.nn.functional.conv2d(x, w)[0, 0].tolist())
print("kernel turned", filtered(X, W[::-1, ::-1]).tolist())

# %%
# Check: PyTorch's conv2d is a correlation too; with the kernel turned, the first number is 0*3 + 1*2 + 3*1 + 4*0 = 5.
assert torch.nn.functional.conv2d(x, w)[0, 0].tolist() == Y.tolist()
assert filtered(X, W[::-1, ::-1])[0, 0] == 5

# %% [markdown]
# ## Three kernels and a photograph
#
# The lecture's kernels for edges, sharpening and Gaussian blur:
#
# $$\begin{bmatrix} -1 & -1 & -1 \\ -1 & 8 & -1 \\ -1 & -1 & -1 \end{bmatrix} \qquad
# \begin{bmatrix} 0 & -1 & 0 \\ -1 & 5 & -1 \\ 0 & -1 & 0 \end{bmatrix} \qquad
# \frac{1}{16} \begin{bmatrix} 1 & 2 & 1 \\ 2 & 4 & 2 \\ 1 & 2 & 1 \end{bmatrix}$$
#
# One convolution applies them all: three output channels, one kernel each. Red, green and blue are filtered apart, so
# each colour is a picture of a batch of three. The photograph comes with scikit-learn.

# %%
EDGES = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)
BLUR = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16

photo = photograph("china")
colours = photo.transpose(1, 0, 2, 3)  # [3, 1, H, W]
height, width = photo.shape[2:]
b = tricnn.GraphBuilder("filters")
filters = b.build(b.conv2d(b.input("x", (1, height, width)), 3, 3, padding=1, bias=False, name="conv"))
m = tricnn.compile(filters)
m.load_state_dict({"conv.weight": np.stack([EDGES, SHARPEN, BLUR])[:, None]})
edges, sharp, blurred = (result.transpose(1, 2, 0) for result in m(colours).transpose(1, 0, 2, 3))
original = photo[0].transpose(1, 2, 0)
show(
    [original, np.abs(edges).clip(0, 1), sharp.clip(0, 1), blurred.clip(0, 1)],
    ["photograph", "edges", "sharpened", "blurred"],
    columns=2,
    size=2.7,
)

# %% [markdown]
# From near. Sharpening adds to a pixel five times what sets it apart from the mean of itself and its four neighbours,
# $x + 5\,(x - \bar{x})$; noise is sharpened as well.

# %%
near = (slice(20, 75), slice(70, 145))
show([p[near].clip(0, 1) for p in (original, sharp, blurred)], ["photograph", "sharpened", "blurred"], size=2.4)

# %%
# Check: PyTorch filters the same; and the weights' sum says what becomes of an even surface.
theirs = torch.nn.functional.conv2d(
    torch.from_numpy(colours), torch.from_numpy(np.stack([EDGES, SHARPEN, BLUR])[:, None]), padding=1
)
assert np.allclose(m(colours), theirs.numpy(), atol=1e-5)
assert [float(k.sum()) for k in (EDGES, SHARPEN, BLUR)] == [0, 1, 1]
identity, cross = np.zeros((3, 3)), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
identity[1, 1] = 1
assert np.allclose(SHARPEN, identity + 5 * (identity - cross / 5))

# %% [markdown]
# Across a step from dark to bright one sees what each does. The edge kernel answers at the step only, on both sides;
# sharpening exaggerates it; blur spreads it over its neighbours.

# %%
step = np.zeros((5, 12))
step[:, 6:] = 1
figure, axis = plt.subplots(figsize=(7, 2.6))
axis.step(range(12), step[2], where="mid", color="black", label="input")
for name, k in (("edges / 3", EDGES / 3), ("sharpened", SHARPEN), ("blurred", BLUR)):
    axis.plot(range(1, 11), filtered(step, k)[1], "o-", label=name)
axis.legend(fontsize=9)
axis.set_title("A step, filtered")
plt.show()

# %%
# Check: beside a step from 0 to 16, by hand.
assert filtered(16 * step, EDGES)[1, 4:6].tolist() == [-48, 48]
assert filtered(16 * step, SHARPEN)[1, 4:6].tolist() == [-16, 32]
assert filtered(16 * step, BLUR)[1, 4:6].tolist() == [4, 12]

# %% [markdown]
# ## Blur, and blur again
#
# Convolutions without anything between them are one convolution with a larger kernel. What the blur makes of a single
# bright pixel is its kernel; after $t$ blurs it is a binomial distribution in both directions, which soon is a
# Gaussian bell. (Networks put a ReLU in between: otherwise depth would be for nothing.)

# %%
b = tricnn.GraphBuilder("blurs")
value = b.input("x", (1, 33, 33))
names = []
for number in range(12):
    value = b.conv2d(value, 1, 3, padding=1, bias=False, name=f"blur{number + 1}")
    if number + 1 in (1, 4, 12):
        b.output(value, f"after{number + 1}")
blurs = tricnn.compile(b.build())
blurs.load_state_dict({f"blur{i + 1}.weight": BLUR[None, None] for i in range(12)})
dot = np.zeros((1, 1, 33, 33), np.float32)
dot[0, 0, 16, 16] = 1
bells = blurs(dot)
show([v[0, 0] for v in bells.values()], ["1 blur", "4 blurs", "12 blurs"], size=2.4, cmap="viridis")
figure, axis = plt.subplots(figsize=(6, 2.4))
position = np.arange(-16, 17)
axis.plot(position, bells["after12"][0, 0].sum(0), "o", label="12 blurs")
axis.plot(position, np.exp(-(position**2) / 12) / np.sqrt(12 * np.pi), label="Gaussian, variance 12 · 1/2")
axis.legend()
plt.show()

# %%
# Check: t blurs are the 2t-th row of Pascal's triangle, in both directions; [1, 2, 1] / 4 has variance 1/2.
row = np.array([1.0])
for _ in range(2 * 4):
    row = np.convolve(row, [0.5, 0.5])
assert np.allclose(bells["after4"][0, 0, 12:21, 12:21], np.outer(row, row), atol=1e-6)
assert np.allclose(bells["after12"][0, 0].sum(0), np.exp(-(position**2) / 12) / np.sqrt(12 * np.pi), atol=5e-3)

# %% [markdown]
# ## Learning a kernel
#
# Nobody tells a network which kernel finds edges. It sees inputs and what should come out. Let somebody filter the
# photograph with a kernel that we do not know, and find it from the two pictures, by gradient descent on
#
# $$\ell(\mathbf{W}) = \frac{1}{2m} \sum_{i,j} e_{i,j}^2, \qquad
# \mathbf{E} = \mathbf{X} \star \mathbf{W} - \mathbf{Y},$$
#
# $m$ being the number of pixels. Its derivative is short, and beautiful:
#
# $$\frac{\partial \ell}{\partial w_{a,c}} = \frac{1}{m} \sum_{i,j} e_{i,j}\, x_{i+a,\,j+c}
# \qquad\text{or}\qquad \frac{\partial \ell}{\partial \mathbf{W}} = \frac{1}{m}\ \mathbf{X} \star \mathbf{E}.$$
#
# The gradient of a convolution *is* a convolution: of the same picture, with the error as a very large kernel. So
# `filtered` is all that we need, in both directions.

# %%
grey = photo[0].mean(0)[40:136, 120:248]
grey = (grey - grey.mean()) / grey.std()


def gradient(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss, and its derivative by w."""
    error = filtered(x, w) - y
    return float((error**2).mean() / 2), filtered(x, error) / error.size


secret = EDGES
target = filtered(grey, secret)
guess = np.zeros((3, 3), np.float32)
loss, slope = gradient(grey, guess, target)
print(f"loss {loss:.3f}")
print(np.round(slope, 3))

# %%
# Check: the gradient that PyTorch's automatic differentiation finds.
w = torch.zeros(1, 1, 3, 3, requires_grad=True)
error = torch.nn.functional.conv2d(torch.from_numpy(grey)[None, None], w) - torch.from_numpy(target)
((error**2).mean() / 2).backward()
assert np.allclose(slope, w.grad[0, 0].numpy(), atol=1e-4)

# %% [markdown]
# Neighbouring pixels are alike, so that the nine numbers are hard to tell apart and plain descent is slow. Momentum
# helps.

# %%
losses, snapshots, velocity = [], [guess], np.zeros((3, 3), np.float32)
for step_number in range(1, 401):
    loss, slope = gradient(grey, guess, target)
    velocity = 0.9 * velocity + slope
    guess = guess - 0.05 * velocity
    losses.append(loss)
    if step_number in (20, 100, 400):
        snapshots.append(guess)
print(np.round(guess, 2))

# %%
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4), width_ratios=[2, 1, 1, 1, 1])
axes[0].semilogy(losses)
axes[0].set(xlabel="step", title="loss")
for axis, k, title in zip(axes[1:], snapshots, ("start", "20 steps", "100 steps", "400 steps")):
    axis.imshow(k, cmap="coolwarm", vmin=-8, vmax=8)
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %%
# Check: the kernel that nobody told us.
assert np.abs(guess - secret).max() < 0.2
assert losses[-1] < losses[0] / 1000

# %% [markdown]
# The lecture's own example is smaller: from one picture with a vertical edge, learn `[1, -1]`.

# %%
stripe = np.tile([1.0, 1, 0, 0, 0, 0, 1, 1], (6, 1))
wanted = filtered(stripe, np.array([[1, -1]]))
pair = np.zeros((1, 2), np.float32)
for _ in range(100):
    pair = pair - 2 * gradient(stripe, pair, wanted)[1]
print(wanted[0], np.round(pair, 3))

# %%
# Check: an edge from white to black gives 1, back to white -1; the kernel is found.
assert wanted[0].tolist() == [0, 1, 0, 0, 0, -1, 0]
assert np.allclose(pair, [[1, -1]], atol=0.01)

# %% [markdown]
# ## Exercises
#
# 1. Find a kernel that moves the picture by one pixel to the right. And one that turns every edge from left to right
#    into relief (*emboss*).
# 2. Is there a kernel that undoes the blur? Try to learn one: input the blurred picture, target the sharp one, 5×5.
# 3. Learn the blur kernel instead of the edges. Then try it without momentum: how many steps does it take now?
# 4. Filter the photograph with `EDGES` after `BLUR`. Which single 5×5 kernel does the same?
#
# `examples/filter_photograph.py` filters any picture from the command line, and `examples/learn_kernel.py` finds the
# kernel that leads from one picture to another.
#
# ## What the compiler made of it
#
# Three filters are one kernel and one launch. For training there is one more kernel: the gradient by the weights,
# *wgrad*, which is the convolution with the error from above. To see it, give the filters a task with labels, one
# class for each filter.

# %%
b = tricnn.GraphBuilder("trained")
x = b.relu(b.conv2d(b.input("x", (1, height, width)), 3, 3, padding=1, bias=False, name="conv"))
trained = tricnn.compile(b.build(b.flatten(b.global_avg_pool(x))), mode="train", target="sm_90")
print(m.plan)
print()
print(trained.plan)
print()
print(kernel(m, "k00_conv"))
