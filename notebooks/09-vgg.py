# %% [markdown]
# # 9. VGG: repeated elements
#
# AlexNet's sizes look as if somebody had thrown dice: 11×11, 5×5, 3×3. Simonyan and Zisserman (*Very deep
# convolutional networks for large-scale image recognition*, 2014) took one element, a 3×3 convolution with ReLU,
# repeated it, and put a 2×2 pooling after every few. That is all; what is left to choose is how often.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import accuracy, command, digits, fit, kernel, show, smooth, table

import tricnn

# %% [markdown]
# ## Why 3×3
#
# Two 3×3 convolutions see as far as one 5×5, three as far as a 7×7. For $c$ channels in and out they have
#
# $$2 \cdot 9\, c^2 = 18\, c^2 < 25\, c^2, \qquad 3 \cdot 9\, c^2 = 27\, c^2 < 49\, c^2$$
#
# weights, and one or two ReLUs more. How far a number sees can be drawn: the gradient of one number of the result by
# every pixel. A convolution's weights all 1 make it the number of ways from the pixel to it.


# %%
def seen(layers: int, size: int) -> np.ndarray:
    """In how many ways each of 15x15 pixels reaches the middle after ``layers`` convolutions of size x size."""
    b = tricnn.GraphBuilder("seen")
    x = b.input("x", (1, 15, 15))
    for number in range(layers):
        x = b.conv2d(x, 1, size, padding=size // 2, bias=False, name=f"conv{number}")
    m = tricnn.compile(b.build(x))
    m.load_state_dict({f"conv{i}.weight": np.ones((1, 1, size, size), np.float32) for i in range(layers)})
    dot = np.zeros((1, 1, 15, 15), np.float32)
    dot[0, 0, 7, 7] = 1  # the kernels are symmetric: who reaches the middle is who is reached from it
    return m(dot)[0, 0]


views = {"one 5x5": seen(1, 5), "two 3x3": seen(2, 3), "one 7x7": seen(1, 7), "three 3x3": seen(3, 3)}
show(views.values(), views.keys(), columns=4, size=2.2, cmap="viridis")


# %%
def weights(layers: int, size: int, channels: int = 64) -> int:
    b = tricnn.GraphBuilder("stack")
    x = b.input("x", (channels, 15, 15))
    for _ in range(layers):
        x = b.conv2d(x, channels, size, padding=size // 2, bias=False)
    return b.build(x).num_parameters


# %%
# Check: the same 5x5 and 7x7 pixels are seen; in the ways of the formula, 9 in the middle; with fewer weights.
assert np.array_equal(views["two 3x3"] > 0, views["one 5x5"] > 0)
assert np.array_equal(views["three 3x3"] > 0, views["one 7x7"] > 0)
assert views["two 3x3"][7, 7] == 9 and views["two 3x3"][5, 5] == 1
assert weights(2, 3) == 18 * 64**2 < weights(1, 5) == 25 * 64**2
assert weights(3, 3) == 27 * 64**2 < weights(1, 7) == 49 * 64**2

# %% [markdown]
# ## A block, and five of them
#
# Halve the picture, double the channels: 64, 128, 256, 512, 512. A network is a list of how many convolutions each of
# the five stages has.

# %%
STAGES = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def block(b, x, convolutions: int, filters: int):
    for _ in range(convolutions):
        x = b.relu(b.conv2d(x, filters, 3, padding=1))
    return b.max_pool2d(x, 2)


def vgg(stages, classes=1000, image=(3, 224, 224), width=1.0):
    b = tricnn.GraphBuilder("vgg")
    x = b.input("x", image)
    for convolutions, filters in zip(stages, (64, 128, 256, 512, 512)):
        x = block(b, x, convolutions, int(filters * width))
    for _ in range(2):
        x = b.dropout(b.relu(b.linear(x, int(4096 * width))))
    return b.build(b.linear(x, classes))


rows = []
for name, stages in STAGES.items():
    graph = vgg(stages)
    rows.append((name, "-".join(map(str, stages)), sum(stages) + 3, graph.num_parameters, graph.macs))
table(["network", "convolutions", "layers", "parameters", "multiply-adds"], rows)

# %%
# Check: the paper's 133, 133, 138 and 144 million parameters (table 2); and the networks of the zoo.
assert [round(row[3] / 1e6) for row in rows] == [133, 133, 138, 144]
zoo = (tricnn.graphs.vgg11, tricnn.graphs.vgg13, tricnn.graphs.vgg16, tricnn.graphs.vgg19)
assert [row[3:] for row in rows] == [(f().num_parameters, f().macs) for f in zoo]

# %% [markdown]
# Where are they? Nine tenths of the parameters are in the dense layers, three quarters in the first of them alone:
# 512 · 7 · 7 numbers into 4096. Nearly all of the work is in the convolutions, and most of the memory for what comes
# out in the first two stages. (GoogLeNet and ResNet end with global average pooling and have no such dense layer.)

# %%
shown = [v for v in command("show", "vgg16")["layers"] if v["op"] in ("conv2d", "linear")]
names = [f"conv {i}" for i in range(1, 14)] + ["dense 1", "dense 2", "classes"]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
for axis, what, title, unit in zip(
    axes,
    ("parameters", "macs", "bytes"),
    ("parameters, millions", "multiply-adds, thousand millions", "what comes out, MB"),
    (1e6, 1e9, 1e6),
):
    axis.barh(names, [v[what] / unit for v in shown], color="#4c78a8")
    axis.set_title(title, fontsize=10)
axes[0].invert_yaxis()
axes[0].tick_params(labelsize=8)
plt.show()

# %%
# Check: 25,088 x 4,096 weights and as many biases as units are 74 % of all, the dense layers 89 %.
assert shown[13]["parameters"] == 512 * 7 * 7 * 4096 + 4096
assert round(shown[13]["parameters"] / rows[2][3] * 100) == 74
assert round(sum(v["parameters"] for v in shown[13:]) / rows[2][3] * 100) == 89
assert sum(v["macs"] for v in shown[:13]) / rows[2][4] > 0.99

# %% [markdown]
# ## Trained, with batch norm and without
#
# Eleven layers without help are hard to start: VGG's authors trained the small network first and put its weights into
# the large one. Batch norm (notebook 11) made that unnecessary. Here are digits of 32×32 and VGG-11 with a sixteenth
# of its channels, at three learning rates.

# %%
x, y, x_test, y_test = digits(32)
small = {"num_classes": 10, "input_shape": (1, 32, 32), "width": 1 / 16, "dropout": 0}
runs = {}
for name, declare in (("VGG-11", tricnn.graphs.vgg11), ("VGG-11 with batch norm", tricnn.graphs.vgg11_bn)):
    graph = declare(**small)
    for rate in (0.01, 0.03, 0.1):
        model = tricnn.compile(graph, mode="train", batch=64)
        losses = fit(model, x, y, epochs=1.5, rate=rate)
        runs[name, rate] = losses, accuracy(graph, model.state_dict(), x_test, y_test)
        print(f"{name:22}  rate {rate:<4}  {runs[name, rate][1]:.1%}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
for axis, name in zip(axes, ("VGG-11", "VGG-11 with batch norm")):
    for rate in (0.01, 0.03, 0.1):
        axis.plot(smooth(runs[name, rate][0], 3), label=f"rate {rate}")
    axis.set(title=name, xlabel="step", ylim=(0, 3))
    axis.legend()
plt.show()

# %%
# Check: with batch norm an epoch and a half is enough at every rate to be far from guessing (10 %), and the best is
# better than the best without.
normed = [score for (name, _), (_, score) in runs.items() if "norm" in name]
plain = [score for (name, _), (_, score) in runs.items() if "norm" not in name]
assert min(normed) > 0.3 and max(normed) > 0.6
assert max(normed) > max(plain)

# %% [markdown]
# ## Exercises
#
# 1. How far does a number see after the ten convolutions and four poolings of VGG-13's first four stages?
# 2. Replace the dense layers of VGG-16 by global average pooling and one dense layer. How many parameters are left?
# 3. The paper's network C has 1×1 convolutions as the third of some stages. What can they add without seeing further?
# 4. Declare a VGG for CIFAR's 3×32×32. Which poolings must go, and `tricnn show` how many multiply-adds are left?
#
# ## What the compiler made of it
#
# In VGG every block is alike, and so are its kernels: a convolution that does bias and ReLU, and where it is the last
# of its stage the pooling too. In use, batch norm costs nothing at all: it is folded into the weights (notebook 11).

# %%
b = tricnn.GraphBuilder("one_block")
m = tricnn.compile(b.build(block(b, b.input("x", (64, 56, 56)), 2, 64)), batch=64, dtype="bf16", target="sm_90")
print(m.plan)
print()
for declare in (tricnn.graphs.vgg11, tricnn.graphs.vgg11_bn):
    print(str(tricnn.compile(declare(), batch=64, dtype="bf16", target="sm_90").plan).splitlines()[0])
print()
print(kernel(m, "k01_conv2"))
