# %% [markdown]
# # 1. GPUs
#
# A convolutional network is a few lines of mathematics and a great many multiplications. Where they are done decides
# whether you wait for minutes or for days. This notebook counts them, compares the machines, and runs one network on
# every device that tricnn knows.

# %%
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # GPU kernels then run on the CPU, slowly; said before Triton is imported

from lesson import command, kernel, table

import tricnn

# %% [markdown]
# ## Two machines of 2019, and today's
#
# The lecture's computer has an Intel i7-6700K, 4 cores that together reach 0.15 TFLOPS (0.15 · 10¹² operations a
# second) and read 30 GB/s from memory; beside it sits an NVIDIA Titan RTX (Turing TU102) with 12 TFLOPS, and 130 in
# its tensor cores, which multiply small matrices of 16-bit numbers. Below are these and three accelerators of today,
# by their data sheets.

# %%
#           name              TFLOPS fp32, in 16-bit matrix units, memory GB/s
machines = [
    ("Intel i7-6700K, 2015", 0.15, 0.15, 30),
    ("Titan RTX, 2018", 12, 130, 672),
    ("A100, 2020", 19.5, 312, 2040),
    ("H100 SXM, 2022", 67, 989, 3350),
    ("B200, 2024", 75, 2250, 7700),
]
table(
    ["machine", "fp32 TFLOPS", "matrix units", "GB/s", "operations per byte"],
    [(name, f32, narrow, memory, round(narrow * 1000 / memory)) for name, f32, narrow, memory in machines],
)

# %%
figure, axis = plt.subplots(figsize=(8, 3))
names = [name for name, *_ in machines]
axis.barh([i + 0.2 for i in range(5)], [m[2] for m in machines], 0.4, label="16-bit matrix units", color="#4c78a8")
axis.barh([i - 0.2 for i in range(5)], [m[1] for m in machines], 0.4, label="fp32", color="#f58518")
axis.set(xscale="log", xlabel="TFLOPS", yticks=range(5), yticklabels=names, title="What a machine can compute")
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# The last column is the important one. A GPU can do hundreds of operations in the time in which it reads *one* byte.
# A program with fewer operations per byte than that waits for memory, however many TFLOPS the data sheet promises:
#
# $$\text{operations a second} \le \min(\text{peak},\ \text{bandwidth} \times \text{operations per byte})$$
#
# Drawn over the operations per byte, that is a *roofline*. A ReLU does one operation for the 4 bytes that it reads
# and writes in 16 bits. A convolution with hundreds of channels does thousands.

# %%
intensity = np.logspace(-2, 4, 200)
figure, axis = plt.subplots(figsize=(8, 3.4))
for name, _, peak, memory in machines:
    axis.plot(intensity, np.minimum(peak, memory / 1000 * intensity), label=name)
for where, what in ((1 / 4, "ReLU"), (2500, "3x3 convolution,\n512 channels")):
    axis.axvline(where, color="grey", linestyle=":")
    axis.text(where * 1.1, 2e-3, what, fontsize=9)
axis.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="TFLOPS at most", ylim=(1e-3, 5e3))
axis.set_title("The roof over every program")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## How long is ten layers?
#
# A convolution with $c_i$ input and $c_o$ output channels and a $k_h \times k_w$ kernel that makes an image of
# $m_h \times m_w$ pixels multiplies and adds $c_i\,c_o\,k_h\,k_w\,m_h\,m_w$ times. The lecture's example has
# $c_i = c_o = 100$, $k = 5$ and $m = 64$. Declare it, and let the graph count.

# %%
b = tricnn.GraphBuilder("layer")
x = b.input("x", (100, 64, 64))
layer = b.build(b.conv2d(x, 100, 5, padding=2, bias=False, name="conv"))
print(layer)
print(f"{layer.macs:,} multiply-adds for one image")

# %% [markdown]
# Ten such layers, and a million images to look at once: 10 · 10⁶ · 10⁹ = 10¹⁶, ten petaflop.

# %%
work = 10 * 1_000_000 * 1e9
cpu, gpu = work / 0.15e12 / 3600, work / 12e12 / 60
print(f"i7: {cpu:.1f} hours, Titan RTX: {gpu:.1f} minutes")

# %%
# Check: the slide's figures, "1 GFLOP" and "10 PF: 18 h at 0.15 TF, 14 min at 12 TF".
assert layer.macs == 100 * 100 * 5 * 5 * 64 * 64 == 1_024_000_000
assert int(cpu) == 18 and round(gpu) == 14

# %% [markdown]
# Two things hide in that line. The slide counts a multiplication and its addition as *one* operation; data sheets
# count them as two. And peak is never reached. So here is the same work counted as data sheets do, 2.048 · 10¹⁶
# operations.

# %%
operations = 2 * 10 * 1_000_000 * layer.macs
seconds = {name: operations / (peak * 1e12) for name, _, peak, _ in machines}
for name, s in seconds.items():
    print(f"{name:22} {s:12,.0f} s at peak")
figure, axis = plt.subplots(figsize=(8, 2.4))
axis.barh(list(seconds), list(seconds.values()), color="#4c78a8")
axis.set(xscale="log", title="Ten layers, a million images, at peak")
axis.set_xticks([10, 60, 3600, 86400], ["10 s", "1 min", "1 h", "1 day"])
plt.show()

# %%
# Check: 2.048e16 operations at 989e12 a second.
assert operations == 2.048e16
assert abs(seconds["H100 SXM, 2022"] - 20.7) < 0.1

# %% [markdown]
# The compiler knows such machines. It can compile for a GPU that is not there, reads off the machine code what each
# kernel uses, and *predicts* its time from the bytes that it moves and the operations that it does: a roof, as above,
# at rates that are really reached. With `--simulate` it replays the machine code, instruction by instruction, on a
# model of an H100: what loads wait for, what the tensor cores wait for. Neither is a measurement. (On a command line:
# `tricnn compile layer.txt --batch 16 --dtype bf16 --target sm_90 --simulate`.)


# %%
def compiled(channels: int) -> dict:
    b = tricnn.GraphBuilder("layer")
    x = b.input("x", (channels, 64, 64))
    graph = b.build(b.conv2d(x, channels, 5, padding=2, bias=False, name="conv"))
    options = ("--batch", "16", "--dtype", "bf16", "--target", "sm_90", "--simulate")
    (found,) = command("compile", graph, *options)["kernels"]
    return found


kernels = {channels: compiled(channels) for channels in (100, 128)}
rows = [
    (str(c), *(k[what] for what in ("flops", "dram_bytes", "bulk_copy", "predicted_us", "simulated_us")))
    for c, k in kernels.items()
]
table(["channels", "operations", "bytes", "bulk copies", "us predicted", "us simulated"], rows)
times = {"roof": operations / 989e6, "simulated": 10 * 1_000_000 / 16 * kernels[100]["simulated_us"]}
for name, us in times.items():
    print(f"ten layers of 100 channels and a million images, {name}: {us / 1e6:.0f} s")

# %%
# Check: operations and bytes by hand, 16 bits a number: twice 16 x C x 64 x 64, and the weights. And nothing is
# faster than the roof.
for channels, k in kernels.items():
    assert k["flops"] == 2 * 16 * channels**2 * 25 * 64 * 64
    assert k["dram_bytes"] == 2 * (2 * 16 * channels * 64 * 64 + channels**2 * 25)
    assert k["predicted_us"] >= k["flops"] / 989e6 and k["simulated_us"] >= k["flops"] / 989e6

# %% [markdown]
# The roof says 21 seconds, the simulator about five times that: a kernel that computes at the data sheet's rate is
# rare. And look at the second row. 128 channels are 1.64 times the work of 100, and yet the simulator finds
# them faster: a hundred does not divide into the boxes that a Hopper GPU's copy engine brings, so that kernel gathers
# its operands with ordinary loads. Choose numbers of channels that the machine likes.

# %% [markdown]
# And this computer? One image through one layer, in NumPy, with however many cores are free.

# %%
model = tricnn.compile(layer, executor="numpy")
image = np.random.default_rng(0).standard_normal((1, 100, 64, 64)).astype(np.float32)
model(image)  # once to warm up
started = time.perf_counter()
model(image)
took = time.perf_counter() - started
print(f"{took:.3f} s: {2 * layer.macs / took / 1e12:.3f} TFLOPS here")

# %% [markdown]
# ## Choosing a device
#
# The lecture writes `ctx = npx.cpu()` or `ctx = npx.gpu(0)` and copies arrays there. In PyTorch the device is an
# argument of `.to`, and a copy is made only if the tensor is not there already.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
t = torch.ones(2, 3)
there = t.to(device)
print(there.device, "- the same tensor" if there is t else "- a copy")
copy = t.to(device, copy=True)
copy[0, 0] = 5
print(t[0, 0].item(), copy[0, 0].item())

# %%
# Check: `.to` the place where it is copies nothing; a copy has its own memory.
assert t.to("cpu") is t
assert t[0, 0] == 1 and copy[0, 0] == 5

# %% [markdown]
# Copies are what to be careful with: between the host and a GPU runs a cable of about 32 GB/s (PCI Express 4, 16
# lanes), a hundredth of the GPU's own memory. A batch of 256 photographs of 3×224×224 numbers in fp32 is 154 MB.

# %%
batch_bytes = 256 * 3 * 224 * 224 * 4
copying = batch_bytes / 32e9 * 1e3
resnet = 256 * 2 * tricnn.graphs.resnet50().macs / 989e12 * 1e3
print(f"copy {copying:.1f} ms; ResNet-50 forward at an H100's peak {resnet:.1f} ms")
figure, axis = plt.subplots(figsize=(7, 1.6))
axis.barh(["copy 256 images to the GPU", "ResNet-50 forward, at peak"], [copying, resnet], color=["#f58518", "#4c78a8"])
axis.set(xlabel="ms", title="Bring data once, and leave it there")
plt.show()

# %%
# Check: the copy takes longer than the network. (As bytes of 0..255 it would be four times shorter.)
assert batch_bytes == 154_140_672
assert copying > resnet

# %% [markdown]
# ## One graph, every device
#
# In tricnn the graph does not know where it runs. `executor` says it:
#
# | executor | runs on | |
# |---|---|---|
# | `"numpy"` | the CPU | the definition of what is correct |
# | `"eager"` | PyTorch's operators, CPU or GPU | somebody else's code, layer by layer |
# | `"triton"` | the compiled kernels: a GPU, or the CPU under Triton's interpreter | what we are here for |
#
# Left out, it is Triton where there is a GPU and NumPy where there is none. Arrays come back as they went in: NumPy
# for NumPy, a tensor for a tensor.

# %%
b = tricnn.GraphBuilder("small")
x = b.input("x", (1, 8, 8))
x = b.max_pool2d(b.relu(b.conv2d(x, 4, 3, padding=1, name="conv")), 2)
small = b.build(b.linear(x, 10, name="fc"))

images = np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
logits = {executor: tricnn.compile(small, executor=executor)(images) for executor in ("numpy", "eager", "triton")}
for executor, result in logits.items():
    print(f"{executor:7}", np.round(result[0, :5], 4))
print(torch.is_tensor(tricnn.compile(small)(torch.from_numpy(images))))

# %%
# Check: three executors, one result. (They add in different orders, so the last bits may differ.)
assert np.allclose(logits["numpy"], logits["eager"], atol=1e-5)
assert np.allclose(logits["numpy"], logits["triton"], atol=1e-5)

# %% [markdown]
# ## Exercises
#
# 1. At which number of operations per byte does an H100 stop waiting for memory? Which of its layers do you expect to
#    lie below it: a ReLU, a batch norm, a 1×1 convolution of 64 channels, a dense layer for a single image?
# 2. Give the layer above 10 channels instead of 100. How much does the work shrink, how much the bytes? Compile it
#    and look at `simulated_us`.
# 3. Set `--dtype fp32` in the compilation. Which figures change, and why does `tensor_core` become false?
# 4. How many images must a batch have for copying to cost less than a tenth of the computation of VGG-16?
#
# ## What the compiler made of it
#
# The small network has four layers. Its plan has two kernels: bias, ReLU and pooling happen before the convolution's
# result ever leaves the chip.

# %%
model = tricnn.compile(small, target="sm_90")
print(model.plan)
print()
print(kernel(model, "k00_conv"))
