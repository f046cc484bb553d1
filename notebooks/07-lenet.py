# %% [markdown]
# # 7. LeNet
#
# LeCun, Bottou, Bengio and Haffner's network of 1998 read the digits on bank cheques: two convolutions that look, two
# poolings that forget, three dense layers that decide. We declare it, write out the loop that trains it, and look
# inside.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import accuracy, command, digits, kernel, show, table

import tricnn

# %% [markdown]
# ## Handwritten digits
#
# MNIST has 60,000 digits to train on (the slide says 50,000) and 10,000 to test on, centred, 28×28 pixels of grey, in
# 10 classes.
# scikit-learn ships a small relative, 1,797 digits of 8×8; each pixel is drawn here as 3×3, with a margin of two, to
# have LeNet's size. (`tricnn train lenet --data mnist` takes the real one.)

# %%
x, y, x_test, y_test = digits(28)
print(x.shape, x_test.shape)
show(x[:10, 0], y[:10], columns=10, size=1.1)

# %% [markdown]
# ## The network
#
# | layer | output | weights |
# |---|---|---|
# | convolution 5×5, padding 2, ReLU | 6×28×28 | 150 |
# | pooling 2×2 | 6×14×14 | |
# | convolution 5×5, ReLU | 16×10×10 | 2,400 |
# | pooling 2×2 | 16×5×5 | |
# | dense, ReLU | 120 | 48,000 |
# | dense, ReLU | 84 | 10,080 |
# | dense | 10 | 840 |
#
# That is how it is drawn today. The lecture first draws it with sigmoids and average pooling; the paper itself has a
# scaled tanh and a trainable sub-sampling (`tricnn.graphs.lenet5`). Each `b.` line below adds a layer and gives back
# its name. `look` makes what is inside a result too.


# %%
def lenet(activation="relu", pool="max_pool2d", look=False):
    b = tricnn.GraphBuilder("lenet")
    x = b.input("x", (1, 28, 28))
    inside = []
    for number, (filters, padding) in enumerate([(6, 2), (16, 0)], 1):
        x = b.conv2d(x, filters, 5, padding=padding, name=f"conv{number}", weight_init="xavier_uniform")
        x = b.add(activation, x, name=f"act{number}")
        inside.append(x)
        x = getattr(b, pool)(x, 2, name=f"pool{number}")
    for number, features in enumerate([120, 84], 1):
        x = b.linear(x, features, name=f"fc{number}", weight_init="xavier_uniform")
        x = b.add(activation, x, name=f"act{number + 2}")
    x = b.linear(x, 10, name="fc3", weight_init="xavier_uniform")
    for value in inside if look else []:
        b.output(value, value)
    return b.build(x)


graph = lenet()
layers = command("show", graph)["layers"]
table(
    ["layer", "output", "parameters", "multiply-adds"],
    [(v["name"], "x".join(map(str, v["output_shape"][1:])), v["parameters"], v["macs"]) for v in layers],
)
print(f"{graph.num_parameters:,} parameters, {graph.macs:,} multiply-adds")

# %%
# Check: weights and biases by hand; the same network as the zoo's; PyTorch counts as many.
assert graph.num_parameters == (150 + 6) + (2400 + 16) + (48000 + 120) + (10080 + 84) + (840 + 10) == 61_706
assert (graph.num_parameters, graph.macs) == (tricnn.graphs.lenet().num_parameters, tricnn.graphs.lenet().macs)
nn = torch.nn
theirs = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
)  # fmt: skip
assert sum(p.numel() for p in theirs.parameters()) == graph.num_parameters

# %% [markdown]
# ## One step
#
# Compiled with `mode="train"` a model gives the mean cross entropy of a batch,
#
# $$\ell = -\frac{1}{N} \sum_{n} \log \frac{e^{z_{n, y_n}}}{\sum_k e^{z_{n,k}}},$$
#
# and its gradient by every parameter. Before anything is learnt, ten classes are about equally likely:
# $\ell \approx \log 10 = 2.303$.

# %%
model = tricnn.compile(graph, mode="train", batch=64)
loss, gradients = model.loss_and_grads(x[:64], y[:64])
print(f"loss {loss:.3f}")
for name, gradient in gradients.items():
    print(f"{name:13} {gradient.shape!s:16} mean size {np.abs(gradient).mean():.5f}")

# %%
# Check: PyTorch's automatic differentiation of the same network with the same weights.
names = ["conv1", "conv2", "fc1", "fc2", "fc3"]
with torch.no_grad():
    for name, layer in zip(names, [m for m in theirs if hasattr(m, "weight")]):
        layer.weight.copy_(torch.from_numpy(model.state_dict()[f"{name}.weight"]))
        layer.bias.copy_(torch.from_numpy(model.state_dict()[f"{name}.bias"]))
their_loss = nn.functional.cross_entropy(theirs(torch.from_numpy(x[:64])), torch.from_numpy(y[:64]))
their_loss.backward()
assert abs(loss - their_loss.item()) < 1e-5 and abs(loss - np.log(10)) < 1
for name, layer in zip(names, [m for m in theirs if hasattr(m, "weight")]):
    assert np.allclose(gradients[f"{name}.weight"], layer.weight.grad.numpy(), atol=1e-5)

# %% [markdown]
# ## The loop
#
# Stochastic gradient descent with momentum takes a small batch of pictures at a time:
#
# $$\mathbf{v} \leftarrow 0.9\,\mathbf{v} + \frac{\partial \ell}{\partial \mathbf{w}}, \qquad
# \mathbf{w} \leftarrow \mathbf{w} - \eta\,\mathbf{v}.$$
#
# (Notebooks that follow call it `fit`. `tricnn train` has it with everything around: schedules, checkpoints,
# resuming; and on a GPU the update is one more kernel of the step.)


# %%
def train(graph, rate, epochs):
    model = tricnn.compile(graph, mode="train", batch=64)
    velocity = dict.fromkeys(model.state_dict(), 0)
    order = np.random.default_rng(0)
    losses, scores = [], []
    for _ in range(epochs):
        shuffled = order.permutation(len(x))
        for start in range(0, len(x) - 63, 64):
            picked = shuffled[start : start + 64]
            loss, gradients = model.loss_and_grads(x[picked], y[picked])
            weights = model.state_dict()
            for name, gradient in gradients.items():
                velocity[name] = 0.9 * velocity[name] + gradient
                weights[name] -= rate * velocity[name]
            model.load_state_dict(weights)
            losses.append(loss)
        scores.append(accuracy(graph, model.state_dict(), x_test, y_test))
    return model.state_dict(), losses, scores


weights, losses, scores = train(graph, rate=0.01, epochs=6)
print("accuracy on digits it has never seen:", ", ".join(f"{s:.1%}" for s in scores))

# %% [markdown]
# And with sigmoids and average pooling, as the lecture first draws it. Its gradients are small (notebook 8), so its
# steps are ten times as large. It lies on a plateau all the same: for eight epochs it guesses, all classes about
# equally likely. (Left alone it begins to learn after twenty.)

# %%
old = lenet("sigmoid", "avg_pool2d")
_, old_losses, old_scores = train(old, rate=0.1, epochs=8)
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(losses, label="ReLU, max pooling")
axes[0].plot(old_losses, label="sigmoid, average pooling")
axes[0].set(title="loss", xlabel="step")
axes[0].legend()
axes[1].plot(range(1, 7), scores, "o-")
axes[1].plot(range(1, 9), old_scores, "o-")
axes[1].set(title="accuracy on test digits", xlabel="epoch", ylim=(0, 1.02))
plt.show()

# %%
# Check: it reads digits, and better than guessing by far; the old one is still where everybody starts, at log 10.
assert scores[-1] > 0.93
assert np.mean(losses[-10:]) < 0.3
assert abs(np.mean(old_losses[-20:]) - np.log(10)) < 0.1

# %% [markdown]
# ## What it sees
#
# The six kernels of the first layer, and what six and sixteen channels make of one digit. The first ones answer to
# strokes of a direction, the second to combinations of them.

# %%
seen = tricnn.compile(lenet(look=True))
seen.load_state_dict(weights)
inside = seen(x_test[:1])
limit = np.abs(weights["conv1.weight"]).max()
show(weights["conv1.weight"][:, 0], [f"kernel {i}" for i in range(6)], 6, 1.4, cmap="coolwarm", vmin=-limit, vmax=limit)
show([x_test[0, 0], *inside["act1"][0]], ["digit", *(f"channel {i}" for i in range(6))], columns=7, size=1.3)
show(inside["act2"][0], [""] * 16, columns=8, size=1.1, cmap="viridis")

# %% [markdown]
# ## What it gets wrong

# %%
predicted = np.argmax(np.concatenate([seen(x_test[i : i + 99])["logits"] for i in range(0, 297, 99)]), axis=1)
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (y_test, predicted), 1)
figure, axis = plt.subplots(figsize=(3.6, 3.4))
axis.imshow(confusion, cmap="Blues")
for (i, j), count in np.ndenumerate(confusion):
    if count:
        axis.text(j, i, count, ha="center", va="center", fontsize=8, color="white" if count > 15 else "black")
axis.set(xlabel="read as", ylabel="digit", xticks=range(10), yticks=range(10))
plt.show()
wrong = np.flatnonzero(predicted != y_test)[:8]
titles = [f"{y_test[i]}, read as {predicted[i]}" for i in wrong]
show(x_test[wrong, 0], titles, columns=8, size=1.3)

# %%
# Check: the table counts each test digit once, and its diagonal is the accuracy.
assert confusion.sum() == 297
assert abs(np.trace(confusion) / 297 - scores[-1]) < 1e-9

# %% [markdown]
# ## Exercises
#
# 1. Take out the second convolution and its pooling. How many parameters has the network now, and how well does it
#    read?
# 2. Move the test digits by two pixels (`np.roll(x_test, 2, axis=3)`). How well are they read? And after training on
#    digits moved at random?
# 3. Exchange ReLU and maximum pooling in the graph: `relu(pool(x))` for `pool(relu(x))`. Why is the result the same,
#    bit by bit? Which of the two is less work?
# 4. `tricnn train lenet --data digits --out out/digits` trains it from the command line. What does it do that this
#    loop does not?
#
# ## What the compiler made of it
#
# Inference: 12 layers, 5 kernels. Each convolution does its bias, pooling and ReLU on the way, in the order that
# exercise 3 asks about. The whole step of training, forward, loss and backward, has 16 kernels.

# %%
m = tricnn.compile(graph, target="sm_90", batch=256, dtype="bf16")
print(m.plan)
print()
print(kernel(m, "k00_conv1"))
print()
print(tricnn.compile(graph, mode="train", target="sm_90", batch=256, dtype="bf16").plan)
