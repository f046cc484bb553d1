# %% [markdown]
# # 12. Residual networks
#
# A deeper network can do more. Can it also *find* more? He, Zhang, Ren and Sun saw in 2015 that a plain network of 56
# layers has a larger training error than one of 20. Their remedy is one addition for every two layers, and it is in
# nearly every network since.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import accuracy, command, digits, fit, kernel, smooth, table

import tricnn

# %% [markdown]
# ## Does another layer always help?
#
# A network with given layers is a *class* of functions, and training looks for the best one in it. Add a layer, and
# the class changes: it may be larger and still lie further away from the function $f^*$ that we want. Only if the
# classes are **nested**, each inside the next, a larger one is never worse. The lecture draws it as circles; here it
# is with numbers. The function to be found is a curve; the classes are sums of two waves of neighbouring frequencies
# (generic: class $k$ has the waves $k$ and $k + 1$), or of all waves up to $k + 1$ (nested).

# %%
t = np.linspace(0, 1, 200)
target = np.sin(2 * np.pi * t**1.5) + 0.3 * np.cos(9 * t)


def best(waves) -> tuple[float, np.ndarray]:
    """The mean square error of the best sum of these waves, and that sum."""
    columns = np.stack([np.cos(np.pi * k * t) for k in waves] + [np.sin(np.pi * k * t) for k in waves], axis=1)
    found = columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
    return float(((found - target) ** 2).mean()), found


classes = range(1, 7)
generic = [best([k, k + 1])[0] for k in classes]
nested = [best(range(1, k + 2))[0] for k in classes]
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
axes[0].plot(t, target, color="black", label="$f^*$")
axes[0].plot(t, best([6, 7])[1], label="generic, class 6")
axes[0].plot(t, best(range(1, 8))[1], "--", label="nested, class 6")
axes[0].legend(fontsize=8)
axes[1].semilogy(classes, generic, "o-", label="generic")
axes[1].semilogy(classes, nested, "o-", label="nested")
axes[1].set(xlabel="class", title="distance of the best from $f^*$")
axes[1].legend()
plt.show()

# %%
# Check: nested classes never get worse; generic ones do.
assert np.diff(nested).max() < 1e-12
assert np.diff(generic).max() > 0

# %% [markdown]
# ## f(x) = x + g(x)
#
# How do we make a layer that *contains* the network without it? Let it add to what is there, as in a Taylor series:
#
# $$f(x) = x + g(x).$$
#
# With $g = 0$ nothing was added, so a deeper network contains the shallower. The lecture's code,
#
# ```python
# def forward(self, X):
#     Y = npx.relu(self.bn1(self.conv1(X)))
#     Y = self.bn2(self.conv2(Y))
#     return npx.relu(Y + X)
# ```
#
# is line by line:


# %%
def residual(b, X, filters, stride=1):
    Y = b.relu(b.batch_norm(b.conv2d(X, filters, 3, stride=stride, padding=1, bias=False)))
    Y = b.batch_norm(b.conv2d(Y, filters, 3, padding=1, bias=False), name=b.fresh("last"))
    if stride > 1:  # the picture is halved, so X must be too: a 1x1 convolution of every second pixel
        X = b.batch_norm(b.conv2d(X, filters, 1, stride=stride, bias=False))
    return b.relu(b.add_(Y, X))


def blocks(count: int):
    b = tricnn.GraphBuilder("blocks")
    X = b.input("x", (4, 8, 8))
    for _ in range(count):
        X = residual(b, X, 4)
    return b.build(X)


graph = blocks(3)
m = tricnn.compile(graph)
weights = m.state_dict()
for name in weights:
    if name.startswith("last") and name.endswith(".weight"):
        weights[name] = np.zeros_like(weights[name])  # gamma of the last batch norm: g = 0
m.load_state_dict(weights)
positive = np.random.default_rng(0).random((2, 4, 8, 8)).astype(np.float32)

# %%
# Check: three blocks with g = 0 do nothing (to what is positive, as all that comes from a ReLU is); and a block with
# other weights is what PyTorch computes.
assert np.allclose(m(positive), positive, atol=1e-6)
one = tricnn.compile(blocks(1), seed=1)
w = {name: torch.from_numpy(v) for name, v in one.state_dict().items()}
F, X = torch.nn.functional, torch.from_numpy(positive)
bn, last = (name.split(".")[0] for name in w if name.endswith("running_mean"))
convs = [v for v in w.values() if v.ndim == 4]
Y = F.relu(F.batch_norm(F.conv2d(X, convs[0], padding=1), w[f"{bn}.running_mean"], w[f"{bn}.running_var"]))
Y = F.batch_norm(F.conv2d(Y, convs[1], padding=1), w[f"{last}.running_mean"], w[f"{last}.running_var"])
assert np.allclose(one(positive), F.relu(Y + X).numpy(), atol=1e-5)

# %% [markdown]
# ## The way back
#
# The derivative of $x + g(x)$ is $1 + g'(x)$: whatever $g'$ is, the gradient has a road to the bottom on which
# nothing is multiplied. Forty layers with weights a little too small, plain and with additions (without batch norm,
# which would hide it). In the plain network numbers fade on their way up and gradients on their way down, so that
# every weight gets next to nothing:


# %%
def deep(add: bool) -> list[float]:
    """Size of the gradient at the weights of 40 convolutions."""
    b = tricnn.GraphBuilder("deep")
    value = b.relu(b.conv2d(b.input("x", (1, 8, 8)), 8, 3, padding=1, name="stem"))
    for number in range(20):
        y = b.relu(b.conv2d(value, 8, 3, padding=1, name=f"a{number}", weight_init="normal(0.1)"))
        y = b.conv2d(y, 8, 3, padding=1, name=f"b{number}", weight_init="normal(0.1)")
        value = b.relu(b.add_(y, value) if add else y)
    learning = tricnn.compile(b.build(b.linear(value, 10, name="fc")), mode="train", batch=64)
    _, gradients = learning.loss_and_grads(x[:64], y_[:64])
    return [float(np.sqrt((gradients[f"{part}{i}.weight"] ** 2).mean())) for i in range(20) for part in "ab"]


x, y_, x_test, y_test = digits(8)
back = {"plain": deep(False), "with additions": deep(True)}
figure, axis = plt.subplots(figsize=(6.5, 2.8))
for name, sizes in back.items():
    axis.semilogy(range(1, 41), np.maximum(sizes, 1e-20), label=name)
axis.set(xlabel="layer", title="Size of the gradients of the weights")
axis.legend()
plt.show()

# %%
# Check: a layer makes numbers smaller, by about 0.1 * sqrt(9 * 8 / 2) = 0.6; 0.6^40 is 1e-9. Additions do not.
assert min(back["with additions"]) > 1e5 * max(back["plain"])
assert max(back["with additions"]) < 1e3 * min(back["with additions"])

# %% [markdown]
# And trained, on digits of 8×8: the same 41 convolutions with batch norm, once plain and once with an addition for
# every two.


# %%
def network(add: bool):
    b = tricnn.GraphBuilder("residual" if add else "plain")
    value = b.relu(b.batch_norm(b.conv2d(b.input("x", (1, 8, 8)), 8, 3, padding=1, bias=False)))
    for _ in range(20):
        y = b.relu(b.batch_norm(b.conv2d(value, 8, 3, padding=1, bias=False)))
        y = b.batch_norm(b.conv2d(y, 8, 3, padding=1, bias=False))
        value = b.relu(b.add_(y, value) if add else y)
    return b.build(b.linear(b.global_avg_pool(value), 10))


curves = {}
for add in (False, True):
    learning = tricnn.compile(network(add), mode="train", batch=64)
    curves[add] = fit(learning, x, y_, epochs=2, rate=0.02)
figure, axis = plt.subplots(figsize=(6.5, 2.6))
for add, losses in curves.items():
    axis.plot(smooth(losses), label="with additions" if add else "plain")
axis.set(xlabel="step", title="Training loss of 41 convolutions")
axis.legend()
plt.show()

# %%
# Check: it is the training loss that is better, so this is not about overfitting.
assert np.mean(curves[True][-10:]) < 0.7 * np.mean(curves[False][-10:])

# %% [markdown]
# ## ResNet
#
# is built as VGG and GoogLeNet are: a stem, and stages that halve the picture (in their first block, stride 2) and
# double the channels; then global average pooling. Batch norm is everywhere. ResNet-18 is stages of two blocks:

# %%
shown = command("show", "resnet18")["layers"]
stages = [v for v in shown if v["op"] == "add" or v["name"] in ("relu", "maxpool", "avgpool", "fc")]
table(["ResNet-18", "output"], [(v["name"], "x".join(map(str, v["output_shape"][1:]))) for v in stages])
print()
G = tricnn.graphs
family = [G.resnet18(), G.resnet34(), G.resnet50(), G.resnet101(), G.resnet152()]
table(["network", "parameters", "multiply-adds"], [(g.name, g.num_parameters, g.macs) for g in family])
figure, axis = plt.subplots(figsize=(6, 2))
axis.barh([g.name for g in family] + ["vgg16"], [g.macs / 1e9 for g in family] + [15.5], color="#4c78a8")
axis.set(title="Multiply-adds, thousand millions")
axis.invert_yaxis()
plt.show()

# %%
# Check: torchvision's documented numbers of parameters; and 1.8 to 11.3 thousand million FLOP, the paper's table 1
# (whose ResNet-50 and deeper have the stride on the 1x1 convolution, which is a little less work).
assert [g.num_parameters for g in family] == [11_689_512, 21_797_672, 25_557_032, 44_549_160, 60_192_808]
assert round(family[0].macs / 1e9, 1) == 1.8 and round(family[1].macs / 1e9, 1) in (3.6, 3.7)
assert [tuple(v["output_shape"][1:]) for v in stages if v["op"] == "add"][::2] == [
    (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)
]  # fmt: skip

# %% [markdown]
# ## Orders of a block
#
# Where do batch norm ($n$) and ReLU ($r$) stand, with $c$ a convolution? He and others tried five orders in *Identity
# mappings in deep residual networks* (2016), figure 4:
#
# | | the block |
# |---|---|
# | original | $r(x + n\,c\,r\,n\,c\,x)$ |
# | batch norm after the addition | $r\,n(x + c\,r\,n\,c\,x)$ |
# | ReLU before the addition | $x + r\,n\,c\,r\,n\,c\,x$ |
# | ReLU first | $x + n\,c\,r\,n\,c\,r\,x$ |
# | both first ("pre-activation") | $x + c\,r\,n\,c\,r\,n\,x$ |
#
# They ranked them with 110 layers on CIFAR-10, 164 epochs. We train the 20-layer members for two epochs on digits:
# that shows that all of them learn, not which is best.

# %%
orders = {
    "original": G.cifar_resnet20,
    "batch norm after addition": G.cifar_resnet20_bn_after_addition,
    "ReLU before addition": G.cifar_resnet20_relu_before_addition,
    "ReLU first": G.cifar_resnet20_relu_preactivation,
    "both first": G.cifar_resnet20_preactivation,
}
trained = {}
for name, declare in orders.items():
    graph = declare(num_classes=10, input_shape=(1, 8, 8), width=1 / 2)
    learning = tricnn.compile(graph, mode="train", batch=64)
    losses = fit(learning, x, y_, epochs=2, rate=0.05)
    trained[name] = losses, accuracy(graph, learning.state_dict(), x_test, y_test), graph.num_parameters
    print(f"{name:26} {trained[name][1]:.1%}")

# %%
figure, axis = plt.subplots(figsize=(7, 3))
for name, (losses, *_) in trained.items():
    axis.plot(smooth(losses), label=name)
axis.set(xlabel="step", title="Training loss of five orders")
axis.legend(fontsize=8)
plt.show()

# %%
# Check: the same parameters in five orders, and every one of them learns.
assert len({parameters for *_, parameters in trained.values()}) == 1
assert all(np.mean(losses[-5:]) < 1.2 < np.log(10) for losses, *_ in trained.values())

# %% [markdown]
# ## Exercises
#
# 1. Why is there no ReLU between $g$'s last batch norm and the addition in the original? What could $g$ not do?
# 2. Start a network with $\gamma = 0$ in every last batch norm (`weight_init="constant(0)"`). Train it and compare.
# 3. Instead of a 1×1 convolution, the CIFAR networks take every second pixel and fill up with zero channels. Count
#    the parameters that this saves in ResNet-18.
# 4. Take a block out of the trained network (the addition makes it possible). How much accuracy is lost? Do the same
#    with the plain one.
#
# ## What the compiler made of it
#
# In use a block is two kernels: batch norms are folded into the weights, and the addition and its ReLU happen in the
# second convolution, before it stores. In training each convolution leaves the sums for its batch norm while it
# stores $z$, and in the backward pass the ReLU's mask and batch norm's sums leave with the gradient. Whether a
# normalised picture is stored or computed again is decided by predicted time (notebook 11).

# %%
b = tricnn.GraphBuilder("block")
X = residual(b, b.input("x", (64, 56, 56)), 64)
block = b.build(b.linear(b.global_avg_pool(X), 10, name="fc"))
for mode in ("infer", "train"):
    print(tricnn.compile(block, mode=mode, batch=256, dtype="bf16", target="sm_90").plan)
    print()
m = tricnn.compile(block, batch=256, dtype="bf16", target="sm_90")
print(kernel(m, "k01_last1"))
