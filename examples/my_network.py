"""A network that is not in the zoo: compiled for inference and training, every kernel checked, the kernels printed.

    python examples/my_network.py

Two branches look at one image, one near by and one (dilated) further away, and are joined. Without a GPU the kernels
run under Triton's interpreter.
"""

import os
import warnings

import tricnn
from tricnn.check.verify import verify_model
from tricnn.run.model import gpu_present

b = tricnn.GraphBuilder("two_views")
x = b.input("x", (3, 8, 8))
near = b.conv2d(x, 8, 3, padding=1, bias=False, name="near")
far = b.conv2d(x, 8, 3, padding=3, dilation=3, bias=False, name="far")
y = b.concat([b.relu(b.batch_norm(near)), b.relu(b.batch_norm(far))])
y = b.global_avg_pool(b.relu(b.conv2d(y, 16, 3, stride=2, name="join")))
graph = b.build(b.linear(y, 10, name="fc"))

if not gpu_present():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
    warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes what masks hide, too

for mode in ("infer", "train"):
    model = tricnn.compile(graph, mode, batch=2, executor="triton")
    checks = verify_model(model, 2)  # each kernel's results against NumPy in float64
    print(model.plan)
    print(f"{mode}: {sum(c.ok for c in checks)} of {len(checks)} values within tolerance", end="\n\n")
    assert all(c.ok for c in checks)
print(model.source)
