# %% [markdown]
# # 8. AlexNet
#
# In 2012 a network that is a deeper and larger LeNet won the ImageNet competition by a wide margin: Krizhevsky,
# Sutskever and Hinton, *ImageNet classification with deep convolutional neural networks*. What they changed is small:
# **ReLU** for sigmoid, **max pooling** for the mean, **dropout**, more data by **augmentation**, and two GPUs. What
# it changed was how everybody thinks: features are learnt, not designed.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import accuracy, command, digits, fit, kernel, photograph, show, smooth, table

import tricnn

# %% [markdown]
# ## The network
#
# | | LeNet | AlexNet, as the lecture draws it |
# |---|---|---|
# | picture | 1×28×28 | 3×224×224 |
# | convolution | 6, 5×5 | 96, 11×11, stride 4 |
# | pooling | 2×2 | 3×3, stride 2 |
# | convolution | 16, 5×5 | 256, 5×5 |
# | pooling | 2×2 | 3×3, stride 2 |
# | convolutions | | 384, 384, 256, 3×3 |
# | pooling | | 3×3, stride 2 |
# | dense | 120, 84 | 4096, 4096, each with dropout |
# | classes | 10 | 1000 |

# %%
alexnet = {v["name"]: v for v in command("show", "alexnet_lecture")["layers"]}
lenet = {v["name"]: v for v in command("show", "lenet")["layers"]}
parts = {
    "Conv1": (["conv1"], ["conv1"]),
    "Conv2": (["conv2"], ["conv2"]),
    "Conv3-5": (["conv3", "conv4", "conv5"], []),
    "Dense1": (["dense1"], ["fc1"]),
    "Dense2": (["dense2"], ["fc2"]),
    "classes": (["dense3"], ["fc3"]),
}
counted = {
    part: [sum(net[n][what] for n in names) for what in ("parameters", "macs") for net, names in
           ((alexnet, big), (lenet, small))]
    for part, (big, small) in parts.items()
}  # fmt: skip
total = [sum(column) for column in zip(*counted.values())]
head = ["", "parameters: AlexNet", "LeNet", "multiply-adds: AlexNet", "LeNet"]
table(head, [*((part, *row) for part, row in counted.items()), ("total", *total)])

# %%
# Check: the slide's column for AlexNet, 35K, 614K, 3M, 26M, 16M, together 46M without the last layer, and its work,
# 101M, 415M, 445M, 26M, 16M, 1G; cut to the slide's digits.
assert [row[0] // 1000 for row in counted.values()][:2] == [34, 614]
assert [row[0] // 10**6 for row in counted.values()][2:5] == [3, 26, 16]
assert (total[0] - counted["classes"][0]) // 10**6 == 46
assert [row[2] // 10**6 for row in counted.values()][:5] == [101, 415, 445, 26, 16]
assert round(total[2] / 1e9) == 1
# LeNet's: 150 and 2,400 weights, with 6 and 16 biases; the dense layer of 400 x 120 has 48 thousand.
assert [row[1] for row in counted.values()][:2] == [150 + 6, 2400 + 16]
assert counted["Dense1"][1] == 400 * 120 + 120

# %% [markdown]
# For LeNet the slide has ten times too much in three places: 1.2 million and 2.4 million multiply-adds in the
# convolutions (28 · 28 · 150 is 117,600, and 10 · 10 · 2,400 is 240,000), and 0.48 million weights in the first dense
# layer. Where AlexNet's numbers lie is what matters: **weights are in the dense layers, work is in the
# convolutions.**

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
axes[0].barh(list(counted), [row[0] / 1e6 for row in counted.values()], color="#4c78a8")
axes[1].barh(list(counted), [row[2] / 1e6 for row in counted.values()], color="#f58518")
axes[0].set(title="AlexNet: parameters, millions")
axes[1].set(title="multiply-adds, millions")
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# ## ReLU: gradients that arrive
#
# Each layer multiplies the gradient by the slope of its activation. For the sigmoid $\sigma(z) = 1/(1 + e^{-z})$ that
# is
#
# $$\sigma'(z) = \sigma(z)\,(1 - \sigma(z)) \le \tfrac14,$$
#
# for $\max(z, 0)$ it is 1 wherever the unit is on. After eight layers the one is at most $4^{-8} = 1/65{,}536$ of
# what it was, as far as the slopes go.

# %%
z = np.linspace(-6, 6, 200)
sigmoid = 1 / (1 + np.exp(-z))
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
axes[0].plot(z, sigmoid, label="sigmoid")
axes[0].plot(z, np.maximum(z, 0), label="ReLU")
axes[0].set(ylim=(-0.2, 2), title="activation")
axes[0].legend()
axes[1].plot(z, sigmoid * (1 - sigmoid))
axes[1].plot(z, z > 0)
axes[1].set(title="its slope")
plt.show()


# %%
def gradients(activation: str) -> list[float]:
    """Size of the gradient at the weights of each of nine layers, for a batch of digits, before any training."""
    b = tricnn.GraphBuilder("deep")
    value = b.input("x", (1, 16, 16))
    for number in range(8):
        value = b.conv2d(value, 16, 3, padding=1, name=f"conv{number + 1}", weight_init="xavier_uniform")
        value = b.add(activation, value)
    model = tricnn.compile(b.build(b.linear(value, 10, name="fc")), mode="train", batch=64)
    _, found = model.loss_and_grads(x16[:64], y16[:64])
    return [float(np.sqrt((g**2).mean())) for name, g in found.items() if name.endswith(".weight")]


x16, y16, *_ = digits(16)
sizes = {name: gradients(name) for name in ("relu", "tanh", "sigmoid")}
figure, axis = plt.subplots(figsize=(6.5, 3))
for name, values in sizes.items():
    axis.semilogy(range(1, 10), values, "o-", label=name)
axis.set(xlabel="layer (the picture is at 1, the loss behind 9)", title="Size of the gradients of the weights")
axis.legend()
plt.show()

# %%
# Check: on its way from layer 8 to layer 1 the sigmoid's gradient shrinks by 100 and more; ReLU's by less than 10.
assert sizes["sigmoid"][7] / sizes["sigmoid"][0] > 100
assert sizes["relu"][7] / sizes["relu"][0] < 10
assert (sigmoid * (1 - sigmoid)).max() <= 0.25

# %% [markdown]
# ## Dropout
#
# In training each unit of the large dense layers is left out with probability $p = 1/2$, anew for each picture and
# step, and what stays is made larger so that the mean is kept:
#
# $$h' = \begin{cases} 0 & \text{with probability } p \\ h / (1 - p) & \text{otherwise} \end{cases}$$
#
# No unit can rely on one other unit being there. In use nothing is dropped. The masks can be seen in the gradient of
# a layer behind: a weight of a unit that was dropped has none. (The layer's weights are zero here, so that everything
# but the mask is the same in every step.)

# %%
b = tricnn.GraphBuilder("dropped")
units = b.dropout(b.input("h", (100,)), 0.5)
dropped = b.build(b.linear(units, 10, bias=False, name="fc"))
zeros = {"fc.weight": np.zeros((10, 100), np.float32)}
learning = tricnn.compile(dropped, mode="train", seed=1)
learning.load_state_dict(zeros)
ones = np.ones((1, 100), np.float32)
steps = np.stack([learning.loss_and_grads(ones, np.array([0]))[1]["fc.weight"][0] for _ in range(40)])
share = (steps == 0).mean()

eye = {"fc.weight": np.eye(10, 100, dtype=np.float32)}
use = tricnn.compile(dropped)
use.load_state_dict(eye)
figure, axis = plt.subplots(figsize=(8, 2.6))
axis.imshow(steps == 0, cmap="Greys", aspect="auto")
axis.set(xlabel="unit", ylabel="step", title=f"dropped (black): {share:.1%}")
plt.show()

# %%
# Check: 4,000 throws of a coin are within 4 standard deviations of half; the gradient of what stays is doubled,
# 2 * (softmax - 1) = 2 * (0.1 - 1); no two steps are alike; and in use nothing is dropped.
assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4000)
assert np.allclose(np.unique(steps), [-1.8, 0], atol=1e-6)
assert len(np.unique(steps, axis=0)) == 40
assert np.array_equal(use(ones)[0], np.ones(10))

# %% [markdown]
# ## Augmentation
#
# A flower that is cut a little differently, mirrored, brighter or bluer is a flower still. Nobody needs to take more
# photographs for that.

# %%
flower = photograph("flower", step=3)[0].transpose(1, 2, 0)


def augmented(picture: np.ndarray, rng: np.random.Generator, size: int = 112) -> np.ndarray:
    """A random cut of size x size pixels, mirrored or not, in another light."""
    row, column = (rng.integers(0, n - size + 1) for n in picture.shape[:2])
    cut = picture[row : row + size, column : column + size]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    light = rng.uniform(0.7, 1.3) * rng.uniform(0.8, 1.2, 3)  # brightness, and each colour's share
    return (cut * light).clip(0, 1)


rng = np.random.default_rng(3)
views = [augmented(flower, rng) for _ in range(8)]
show(views, [""] * 8, columns=4, size=1.4)

# %%
# Check: with (142 - 112 + 1) x (213 - 112 + 1) cuts and a mirror one photograph gives thousands; a cut is a cut.
assert flower.shape == (142, 213, 3) and 31 * 102 * 2 == 6324
assert all(v.shape == (112, 112, 3) and v.min() >= 0 and v.max() <= 1 for v in views)

# %% [markdown]
# ## Trained
#
# The whole network at 224×224 is for a GPU. On a laptop we take a small member, an eighth of the channels, on digits
# of 67×67: the layers are the same. It sees 300 digits, 25 times.

# %%
x, y, x_test, y_test = digits(67)
few = slice(0, 300)
small = {"num_classes": 10, "input_shape": (1, 67, 67), "width": 1 / 8}
graph = tricnn.graphs.alexnet_lecture(**small, dropout=0.5)
model = tricnn.compile(graph, mode="train", batch=32)
losses = fit(model, x[few], y[few], epochs=25, rate=0.015, batch=32)
learnt = model.state_dict()
score = accuracy(graph, learnt, x_test, y_test)
print(f"on what it has seen {accuracy(graph, learnt, x[few], y[few]):.1%}, on new digits {score:.1%}")

# %% [markdown]
# With dropout every step trains another network: forty throws of the masks give 32 digits forty different losses,
# with the same weights. The network that is used has them all.

# %%
throws = [model.loss_and_grads(x[:32], y[:32])[0] for _ in range(40)]
whole = tricnn.compile(tricnn.graphs.alexnet_lecture(**small, dropout=0), mode="train", batch=32)
whole.load_state_dict(learnt)
undropped, _ = whole.loss_and_grads(x[:32], y[:32])
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
axes[0].plot(smooth(losses))
axes[0].set(xlabel="step", title="training loss")
axes[1].hist(throws, bins=15, color="#4c78a8")
axes[1].axvline(undropped, color="#e45756")
axes[1].set(xlabel="loss", title="forty throws, and nothing dropped (red)")
plt.show()

# %%
# Check: it reads from 300 digits five times better than guessing (10 %); units that are missing cost something.
assert score > 0.5
assert np.std(throws) > 0 and np.mean(throws) > undropped

# %% [markdown]
# ## Exercises
#
# 1. Which figures of the table change if the picture is 448×448? Which cannot be kept at all, and why?
# 2. The paper has two towers (`tricnn.graphs.alexnet_2012`, for its two GPUs). What becomes of the weights of
#    `conv2`?
# 3. Give the deep network with sigmoids batch norm before each activation (`b.batch_norm`). Draw its gradients.
# 4. Train on 300 digits that are moved at random by up to four pixels in every step. Compare with dropout.
#
# ## What the compiler made of it
#
# At full size, most ReLUs are computed before a convolution's result is stored. Where the pooling's windows overlap,
# 3×3 with stride 2, a window needs pixels of several programs: pooling is a kernel of its own there, and takes the
# ReLU along. Dropout, in training, is part of the dense layer's kernel: its mask is *computed*, forward and backward,
# from the seed, the step and the element's number; it is not stored.

# %%
m = tricnn.compile(tricnn.graphs.alexnet_lecture(), batch=256, dtype="bf16", target="sm_90")
print(m.plan)
print()
learning = tricnn.compile(tricnn.graphs.alexnet_lecture(), mode="train", batch=256, dtype="bf16", target="sm_90")
print("\n".join(line for line in str(learning.plan).splitlines() if "dropout" in line))
print()
print(kernel(m, "k00_conv1"))
