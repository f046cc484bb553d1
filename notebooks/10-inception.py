# %% [markdown]
# # 10. Inception and GoogLeNet
#
# 1×1, 3×3, 5×5, or pooling: which is the best layer? *Only children choose. I want them all.* Szegedy and others
# (*Going deeper with convolutions*, 2014) put the four beside each other and joined what came out. GoogLeNet is nine
# such blocks; its descendants v2, v3 and v4 take the block apart again.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import accuracy, command, digits, fit, photograph, show, smooth, table

import tricnn

# %% [markdown]
# ## The block
#
# Four branches see the same input. All keep height and width, so that the results can be joined on the channels.
# Before the expensive kernels a 1×1 convolution *squeezes* the channels. The first block of GoogLeNet, from 192 to
# 256:
#
# | branch | | channels |
# |---|---|---|
# | 1 | 1×1 | 64 |
# | 2 | 1×1 to 96, then 3×3 | 128 |
# | 3 | 1×1 to 16, then 5×5 | 32 |
# | 4 | 3×3 max pooling, then 1×1 | 32 |


# %%
def inception(b, x, one, three, five, pool):
    """The joined branches; ``three`` and ``five`` are (squeezed to, channels)."""

    def conv(x, filters, size):
        return b.relu(b.conv2d(x, filters, size, padding=size // 2))

    branches = [
        conv(x, one, 1),
        conv(conv(x, three[0], 1), three[1], 3),
        conv(conv(x, five[0], 1), five[1], 5),
        conv(b.max_pool2d(x, 3, 1, padding=1), pool, 1),
    ]
    return b.concat(branches), branches


def layer(name, declare):
    """A graph of what ``declare(b, x)`` makes of 192 channels of 28x28 pixels."""
    b = tricnn.GraphBuilder(name)
    return b.build(declare(b, b.input("x", (192, 28, 28))))


block = layer("block", lambda b, x: inception(b, x, 64, (96, 128), (16, 32), 32)[0])
three = layer("three", lambda b, x: b.conv2d(x, 256, 3, padding=1, bias=False))
five = layer("five", lambda b, x: b.conv2d(x, 256, 5, padding=2, bias=False))
graphs = {"Inception": block, "3x3": three, "5x5": five}
table(["192 to 256 channels", "parameters", "FLOP"], [(n, g.num_parameters, g.macs) for n, g in graphs.items()])
figure, axes = plt.subplots(1, 2, figsize=(8, 1.8), sharey=True)
axes[0].barh(list(graphs), [g.num_parameters / 1e6 for g in graphs.values()], color="#4c78a8")
axes[1].barh(list(graphs), [g.macs / 1e6 for g in graphs.values()], color="#f58518")
axes[0].set(title="parameters, millions")
axes[1].set(title="multiply-adds, millions")
axes[0].invert_yaxis()
plt.show()

# %%
# Check: the slide's table, 0.16 M and 128 M, 0.44 M and 346 M, 1.22 M and 963 M, cut to its digits; the zoo's block.
cut = {n: (g.num_parameters // 10_000, g.macs // 10**6) for n, g in graphs.items()}
assert cut == {"Inception": (16, 128), "3x3": (44, 346), "5x5": (122, 963)}
zoo = tricnn.graphs.inception_block()
assert (block.num_parameters, block.macs) == (zoo.num_parameters, zoo.macs)

# %% [markdown]
# The block has a third of the weights of a 3×3 convolution and mixes four kinds of functions. Squeezing is what pays:

# %%
direct = layer("direct", lambda b, x: b.conv2d(x, 32, 5, padding=2, bias=False))
squeezed = layer("squeezed", lambda b, x: b.conv2d(b.conv2d(x, 16, 1, bias=False), 32, 5, padding=2, bias=False))
table(
    ["5x5 from 192 to 32 channels", "weights", "multiply-adds"],
    [("at once", direct.num_parameters, direct.macs), ("through 16", squeezed.num_parameters, squeezed.macs)],
)

# %%
# Check: 192 * 32 * 25 against 192 * 16 + 16 * 32 * 25, nearly ten times less.
assert direct.num_parameters == 192 * 32 * 25 and squeezed.num_parameters == 192 * 16 + 16 * 32 * 25
assert direct.macs > 9 * squeezed.macs

# %% [markdown]
# What do four branches, not yet trained, make of a photograph? One channel of each: colours only, small shapes,
# larger shapes, and what was brightest near by.

# %%
photo = photograph("china", step=4)
b = tricnn.GraphBuilder("look")
joined, branches = inception(b, b.input("x", photo.shape[1:]), 8, (8, 8), (8, 8), 8)
for number, branch in enumerate(branches):
    b.output(branch, f"branch{number + 1}")
b.output(joined, "joined")
inside = tricnn.compile(b.build(), seed=4)(photo)
strongest = [max(inside[f"branch{i}"][0], key=np.std) for i in range(1, 5)]
titles = ["photograph", "1x1", "3x3", "5x5", "pooling"]
show([photo[0].transpose(1, 2, 0), *strongest], titles, columns=5, size=1.9)

# %%
# Check: joining is nothing but lying side by side.
assert np.array_equal(inside["joined"], np.concatenate([inside[f"branch{i}"] for i in range(1, 5)], axis=1))
assert inside["joined"].shape == (1, 32, *photo.shape[2:])

# %% [markdown]
# ## GoogLeNet: five stages, nine blocks

# %%
shown = command("show", "googlenet")
blocks = [v for v in shown["layers"] if v["op"] == "concat"]
ends = [v for v in shown["layers"] if v["name"] in ("conv1.relu", "maxpool1", "conv3.relu", "maxpool2", "avgpool")]
rows = [v for v in shown["layers"] if v in ends or v in blocks]
table(["", "output"], [(v["name"], "x".join(map(str, v["output_shape"][1:]))) for v in rows])

# %%
# Check: table 1 of the paper, the channels and the sides of its nine blocks.
assert [v["output_shape"][1] for v in blocks] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
assert [v["output_shape"][2] for v in blocks] == [28, 28, 14, 14, 14, 14, 14, 7, 7]

# %% [markdown]
# A small member of the family learns digits. (An eighth of the channels, 64×64 pixels, with batch norm.)

# %%
x, y, x_test, y_test = digits(64)
graph = tricnn.graphs.googlenet_bn(num_classes=10, input_shape=(1, 64, 64), width=1 / 8, dropout=0)
model = tricnn.compile(graph, mode="train", batch=32)
losses = fit(model, x, y, epochs=1.5, rate=0.02, batch=32)
score = accuracy(graph, model.state_dict(), x_test, y_test)
figure, axis = plt.subplots(figsize=(6, 2.4))
axis.plot(smooth(losses))
axis.set(xlabel="step", title=f"GoogLeNet's training loss; {score:.1%} of new digits are read")
plt.show()

# %%
# Check: it reads far better than guessing (10 %), after one and a half times through 1,500 digits.
assert score > 0.3
assert np.mean(losses[-10:]) < 1.8 < np.log(10)

# %% [markdown]
# ## v2, v3, v4: the block taken apart
#
# - **v2** (Inception-BN): batch norm behind each convolution, and two 3×3 for the 5×5.
# - **v3** replaces more: 5×5 by two 3×3, 7×7 by 1×7 and 7×1, and, on the smallest pictures, 3×3 by 1×3 *beside* 3×1.
#   It is deeper.
# - **v4** is deeper again and more regular; **Inception-ResNet** adds each block to its input (notebook 12).
#
# A 7×7 kernel that is a product of a column and a row, $w_{a,c} = u_a\,v_c$, is exactly a 7×1 after a 1×7: 14 numbers
# for 49. A network learns the two at once, and may even put a ReLU in between.

# %%
bell = np.exp(-(np.arange(-3, 4) ** 2) / 3).astype(np.float32)
wave = np.sin(np.arange(-3, 4)).astype(np.float32)
grey = photo.mean(1, keepdims=True)


def run(x, *kernels):
    b = tricnn.GraphBuilder("kernels")
    value = b.input("x", x.shape[1:])
    for number, k in enumerate(kernels):
        padding = (k.shape[0] // 2, k.shape[1] // 2)
        value = b.conv2d(value, 1, k.shape, padding=padding, bias=False, name=f"conv{number}")
    m = tricnn.compile(b.build(value))
    m.load_state_dict({f"conv{i}.weight": k[None, None] for i, k in enumerate(kernels)})
    return m(x)[0, 0]


whole = run(grey, np.outer(bell, wave))
parts = run(grey, wave[None, :], bell[:, None])
show([np.outer(bell, wave), wave[None, :], bell[:, None]], ["7x7", "1x7", "7x1"], size=2, cmap="coolwarm")
show([whole, parts], ["by 7x7", "by 1x7, then 7x1"], size=2.6, cmap="coolwarm")
pairs = [("two 3x3 for 5x5", 2 * 9, 25), ("1x7 and 7x1 for 7x7", 7 + 7, 49), ("1x3 beside 3x1 for 3x3", 3 + 3, 9)]
table(["for c channels in and out, times c²", "new", "old"], pairs)

# %%
# Check: the same picture from 14 numbers and from 49.
assert np.allclose(whole, parts, atol=1e-4)
assert np.linalg.matrix_rank(np.outer(bell, wave)) == 1

# %% [markdown]
# ## The family

# %%
G = tricnn.graphs
inceptions = {  # without what makes a step random, or heads in the middle
    G.googlenet: {"aux": False, "dropout": 0},
    G.inception_bn: {},
    G.inception_v3: {"aux": False, "dropout": 0},
    G.inception_v4: {"dropout": 0},
    G.inception_resnet_v2: {"dropout": 0},
}
made = [declare() for declare in (*inceptions, G.alexnet, G.vgg16, G.resnet50)]
sizes = [(g.name, g.num_parameters, g.macs) for g in made]
table(["network", "parameters", "multiply-adds"], sizes)
figure, axis = plt.subplots(figsize=(7, 3.4))
for name, parameters, macs in sizes:
    axis.plot(parameters / 1e6, macs / 1e9, "o")
    above = -12 if name == "inception_v4" else 3
    axis.annotate(name, (parameters / 1e6, macs / 1e9), (5, above), textcoords="offset points", fontsize=9)
axis.set(
    xscale="log", yscale="log", xlim=(5, 400), xlabel="parameters, millions", ylabel="multiply-adds, thousand millions"
)
plt.show()

# %% [markdown]
# One step for each of the Inceptions: a small member with all of the layers, the loss of eight digits before and
# after going down the gradient a little.

# %%
steps = {}
for declare, options in inceptions.items():
    size = G.SMALL[declare.__name__]["input_shape"][1]
    few, labels = (part[:8] for part in digits(size)[:2])
    graph = declare(num_classes=10, input_shape=(1, size, size), width=1 / 16, **options)
    model = tricnn.compile(graph, mode="train", batch=8)
    before, gradients = model.loss_and_grads(few, labels)
    weights = model.state_dict()
    length = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, gradient in gradients.items():
        weights[name] -= 0.05 * gradient / length
    model.load_state_dict(weights)
    steps[graph.name] = before, model.loss_and_grads(few, labels)[0]
    print(f"{graph.name:20} {before:.3f} -> {steps[graph.name][1]:.3f}")

# %%
# Check: every network's loss falls; v1's paper says 1.5 thousand million multiply-adds, v3's 5.
assert all(after < before for before, after in steps.values())
assert round(sizes[0][2] / 1e9, 1) == 1.6 and 5 < sizes[2][2] / 1e9 < 6

# %% [markdown]
# ## Exercises
#
# 1. Leave out the squeezing 1×1 convolutions of the block. How many parameters has it now?
# 2. In which order would you put 1×7 and 7×1? Is there a kernel for which it matters?
# 3. GoogLeNet's two auxiliary heads (`aux=True`) push gradients into the middle while it trains. What are they for in
#    a network with batch norm? Compare the losses of `googlenet_bn` with and without.
# 4. `tricnn explain inception_block` lists every edge and what became of it. Which edges are not fused, and why?
#
# ## What the compiler made of it
#
# The two branches that squeeze begin with 1×1 convolutions of the same input: they become *one* kernel with the
# filters of both, which reads the input once. And `concat` is no kernel at all: each branch writes its channels where
# they belong.

# %%
m = tricnn.compile(block, batch=64, dtype="bf16", target="sm_90")
print(m.plan)
print()
print(str(tricnn.compile(block, fuse="none", target="sm_90").plan).splitlines()[0])
