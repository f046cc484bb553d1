"""What a graph may be compiled for."""

#: those that ``tricnn.compile`` takes
MODES = ("infer", "train")
#: beside them: outputs, and gradients of what is wanted, given those of the outputs. The caller has the parameters, and
#: gives them at every forward, in PyTorch's layout
OPEN = "open"
