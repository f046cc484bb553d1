"""Without a GPU, kernels run under Triton's interpreter; it must be chosen before the first import of triton."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
