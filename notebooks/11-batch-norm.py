# %% [markdown]
# # 11. Batch normalisation
#
# The loss is at the top, the data come in at the bottom. Layers near the loss have large gradients and learn fast;
# when a layer below them changes, everything above sees other numbers and learns again. Can the bottom change
# *without* changing so much at the top? Ioffe and Szegedy (2015) hold two things still: the mean and the variance.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import digits, fit, kernel

import tricnn

x, y, x_test, y_test = digits(16)

# %% [markdown]
# ## Two equations
#
# For each channel, over all pixels of all pictures of a batch $B$:
#
# $$\mu_B = \frac{1}{|B|} \sum_{i \in B} x_i, \qquad
# \sigma_B^2 = \frac{1}{|B|} \sum_{i \in B} (x_i - \mu_B)^2 + \epsilon,$$
#
# and then a mean $\beta$ and a deviation $\gamma$ that are *learnt*:
#
# $$x_{i+1} = \gamma\, \frac{x_i - \mu_B}{\sigma_B} + \beta.$$
#
# In use there may be no batch, so a running mean of both is kept while training, `running_mean` and `running_var`.
# Its momentum is 0.1 as a rule; with 1 it is simply that of the last batch, so we can look at it.


# %%
def layers(bn: bool, momentum: float = 0.1, look: bool = False):
    """A convolution of four channels, batch norm (or not), ReLU, and a dense layer."""
    b = tricnn.GraphBuilder("one_layer")
    z = b.conv2d(b.input("x", (1, 16, 16)), 4, 5, padding=2, name="conv", weight_init="xavier_uniform")
    n = b.batch_norm(z, name="bn", momentum=momentum) if bn else z
    logits = b.linear(b.relu(n), 10, name="fc")
    if look:
        b.output(z, "before")
        b.output(n, "after")
    return b.build(logits)


batch, labels = x[:128], y[:128]
learning = tricnn.compile(layers(True, momentum=1), mode="train", batch=128)
loss, gradients = learning.loss_and_grads(batch, labels)
weights = learning.state_dict()
looking = tricnn.compile(layers(True, look=True))
looking.load_state_dict(weights)
inside = looking(batch)
for which in ("before", "after"):
    v = inside[which]
    print(f"{which:7} mean {np.round(v.mean((0, 2, 3)), 3)}  deviation {np.round(v.std((0, 2, 3)), 3)}")

# %%
# Check: the statistics of a training step are those of its batch (the variance with |B| - 1, as PyTorch keeps it), and
# PyTorch's batch norm gives the same numbers.
z = inside["before"]
count = z[:, 0].size
assert np.allclose(weights["bn.running_mean"], z.mean((0, 2, 3)), atol=1e-5)
assert np.allclose(weights["bn.running_var"], z.var((0, 2, 3)) * count / (count - 1), rtol=1e-4)
theirs = torch.nn.functional.batch_norm(torch.from_numpy(z), None, None, training=True)
assert np.allclose(inside["after"], theirs.numpy(), atol=1e-3)  # |B| against |B| - 1
assert np.allclose(inside["after"].mean((0, 2, 3)), 0, atol=1e-4)
assert np.allclose(inside["after"].std((0, 2, 3)), 1, atol=1e-3)

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True)
moved = {**weights, "bn.weight": np.array([0.3, 1, 1, 2], np.float32), "bn.bias": np.array([-2, 0, 1, 2], np.float32)}
looking.load_state_dict(moved)
titles = ("before", "normalised", "with $\\gamma$ = 0.3, 1, 1, 2 and $\\beta$ = -2, 0, 1, 2")
for axis, values, title in zip(axes, (inside["before"], inside["after"], looking(batch)["after"]), titles):
    for channel in range(4):
        axis.hist(values[:, channel].ravel(), bins=60, range=(-6, 6), histtype="step", density=True)
    axis.set_title(title, fontsize=10)
    axis.set_yscale("log")
plt.show()

# %% [markdown]
# ## Ten layers deep
#
# Start ten layers with weights that are a little too small, or a little too large. Without normalisation the numbers
# fade away, or explode, by the same factor in every layer. With it every layer sees the same kind of numbers,
# whatever the weights' size: it cancels.


# %%
def spread(bn: bool, size: float) -> list[float]:
    """The deviation of what comes out of each of ten convolutions whose weights start as N(0, size²)."""
    b = tricnn.GraphBuilder("deep")
    values, value = [], b.input("x", (1, 16, 16))
    for number in range(10):
        value = b.conv2d(value, 8, 3, padding=1, bias=False, name=f"conv{number}", weight_init=f"normal({size})")
        value = b.batch_norm(value, name=f"bn{number}", momentum=1) if bn else value
        values.append(value)
        value = b.relu(value)
    value = b.linear(value, 10, name="fc")
    learning = tricnn.compile(b.build(value), mode="train", batch=64)
    learning.loss_and_grads(x[:64], y[:64])  # gathers the statistics
    for v in values:
        b.output(v, f"after.{v}")
    looking = tricnn.compile(b.build())
    looking.load_state_dict(learning.state_dict())
    seen = looking(x[:64])
    return [float(seen[f"after.{v}"].std()) for v in values]


spreads = {(bn, size): spread(bn, size) for bn in (False, True) for size in (0.05, 0.17, 0.5)}
figure, axis = plt.subplots(figsize=(7, 3))
for (bn, size), values in spreads.items():
    axis.semilogy(range(1, 11), values, "o-" if bn else ":", label=f"N(0, {size}²)" + (", batch norm" if bn else ""))
axis.set(xlabel="layer", title="Deviation of what comes out of it")
axis.legend(fontsize=8, ncols=2)
plt.show()

# %%
# Check: without, ten layers fade by 1,000 and grow by 1,000; with batch norm every layer has deviation 1.
assert spreads[False, 0.05][-1] < 1e-3 * spreads[False, 0.05][0]
assert spreads[False, 0.5][-1] > 1e3 * spreads[False, 0.5][0]
assert all(np.allclose(spreads[True, size], 1, atol=0.05) for size in (0.17, 0.5))

# %% [markdown]
# ## While it learns
#
# Figure 1 of the paper: the distribution of one unit's input while the network trains, as its 15th, 50th and 85th
# percentile. Without batch norm it wanders.


# %%
def network(bn: bool, look: bool = False):
    b = tricnn.GraphBuilder("three_layers")
    value = b.input("x", (1, 16, 16))
    for number, filters in enumerate((8, 16, 32), 1):
        value = b.conv2d(value, filters, 3, padding=1, stride=2, name=f"conv{number}", weight_init="xavier_uniform")
        value = b.batch_norm(value, name=f"bn{number}") if bn else value
        last = value
        value = b.relu(value)
    logits = b.linear(value, 10, name="fc", weight_init="xavier_uniform")
    if look:
        b.output(last, "last")
    return b.build(logits)


paths = {}
for bn in (False, True):
    learning = tricnn.compile(network(bn), mode="train", batch=64)
    looking = tricnn.compile(network(bn, look=True))
    seen = []
    for step in range(50):
        fit(learning, x[:960], y[:960], epochs=2 / 15, rate=0.1, momentum=0, seed=step)  # two steps
        looking.load_state_dict(learning.state_dict())
        seen.append(np.percentile(looking(x_test[:100])["last"][:, 0], (15, 50, 85)))
    paths[bn] = np.array(seen)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
for axis, bn in zip(axes, paths):
    axis.plot(range(2, 102, 2), paths[bn])
    axis.set(title="with batch norm" if bn else "without", xlabel="step")
plt.show()

# %% [markdown]
# ## Larger steps
#
# What it buys: a range of learning rates that is ten times as wide. Twenty-three steps each, once through the digits,
# at six rates.

# %%
rates = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
ends = {}
for bn in (False, True):
    for rate in rates:
        learning = tricnn.compile(network(bn), mode="train", batch=64)
        with np.errstate(all="ignore"):
            losses = fit(learning, x, y, rate=rate)
        end = float(np.mean(losses[-5:]))
        ends[bn, rate] = min(end, 5) if np.isfinite(end) else 5  # 5: it has left the picture
figure, axis = plt.subplots(figsize=(6.5, 2.8))
for bn in (False, True):
    axis.plot(rates, [ends[bn, rate] for rate in rates], "o-", label="batch norm" if bn else "none")
axis.axhline(np.log(10), color="grey", linestyle=":")
axis.text(rates[0], np.log(10) * 1.03, "guessing", fontsize=9)
axis.set(xscale="log", xlabel="learning rate", ylabel="loss", title="Loss after one epoch")
axis.legend()
plt.show()

# %%
# Check: at the largest rates only the network with batch norm is better than guessing.
assert ends[True, 0.3] < 1 and ends[True, 1.0] < np.log(10)
assert ends[False, 1.0] > 2
assert sum(ends[True, r] < 1 for r in rates) > sum(ends[False, r] < 1 for r in rates)

# %% [markdown]
# ## In use it is free
#
# With $\mu$ and $\sigma$ fixed, batch norm is a multiplication and an addition for each channel, and a convolution
# can do both:
#
# $$\gamma\, \frac{(\mathbf{X} \star \mathbf{W} + b) - \mu}{\sigma} + \beta
# = \mathbf{X} \star \left(\frac{\gamma}{\sigma}\, \mathbf{W}\right)
# + \left(\beta + \frac{\gamma}{\sigma}\,(b - \mu)\right).$$
#
# The compiler folds it into the weights. By hand:

# %%
factor = moved["bn.weight"] / np.sqrt(moved["bn.running_var"] + 1e-5)
folded = {
    "conv.weight": moved["conv.weight"] * factor[:, None, None, None],
    "conv.bias": moved["bn.bias"] + factor * (moved["conv.bias"] - moved["bn.running_mean"]),
    "fc.weight": moved["fc.weight"],
    "fc.bias": moved["fc.bias"],
}
with_bn, without = tricnn.compile(layers(True)), tricnn.compile(layers(False))
with_bn.load_state_dict(moved)
without.load_state_dict(folded)
print(np.round(with_bn(batch[:1])[0, :5], 4))
print(np.round(without(batch[:1])[0, :5], 4))

# %%
# Check: the same logits.
assert np.allclose(with_bn(batch), without(batch), atol=1e-4)

# %% [markdown]
# ## Exercises
#
# 1. Why does a convolution before batch norm need no bias?
# 2. Multiply all weights of a convolution by 10. What changes behind its batch norm, and what in the gradient?
# 3. Train with batches of 2 and test. Which of the statistics go wrong?
# 4. Test a network that was trained for one step only. Why is it so bad, though the loss in training was fine? (Look
#    at `running_mean` after a step with momentum 0.1.)
#
# ## What the compiler made of it
#
# Batch norm is why fusing a training step is hard: the mean must be known before the first number can be normalised.
# So the convolution leaves its sums while it stores $z$, a small kernel merges them, and the *next* layer normalises
# as it loads; the normalised picture need not be stored at all. With `fuse="all"` that happens wherever it is legal.
# The default stores it where computing it again for each of the nine products of a 3×3 is predicted to take longer.
# In use each convolution and its batch norm are one kernel.

# %%
b = tricnn.GraphBuilder("two")
value = b.input("x", (16, 32, 32))
for number in (1, 2):
    value = b.conv2d(value, 16, 3, padding=1, bias=False, name=f"conv{number}")
    value = b.relu(b.batch_norm(value, name=f"bn{number}"))
two = b.build(b.linear(b.global_avg_pool(value), 10, name="fc"))
options = {"batch": 256, "dtype": "bf16", "target": "sm_90"}
m = tricnn.compile(two, mode="train", fuse="all", **options)
print(m.plan)
print()
for fuse in ("none", "auto", "all"):
    print(f"{fuse:5}", str(tricnn.compile(two, mode="train", fuse=fuse, **options).plan).splitlines()[0])
print()
print(tricnn.compile(two, **options).plan)
print()
print(kernel(m, "k00_conv1"))
