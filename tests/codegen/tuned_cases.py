"""Small problems that show a tile's edges."""

from tricnn.codegen.tiles import Problem


def edges(kind, m, n, k, dtype):
    """(problem, batch to run): a second tile of rows and of columns that is nearly empty, a sum that ends within a
    block; and a single image, less than one tile of rows. For convolutions also with strides and few channels."""
    pixels = max(m, k if kind.endswith("weight") else 1)
    high = pixels // 9 + 1  # three images of [high, 3] pixels are a few more than one tile
    if kind.startswith("linear"):
        rows, columns = (m + 3, n + 3) if kind.endswith("weight") else (n + 3, k + 5)
        size = {"C": columns, "K": rows} if not kind.endswith("input") else {"C": rows, "K": columns}
        shapes = [(dict(size, H=1, W=1, R=1, S=1, P=1, Q=1), m + 2), (dict(size, H=1, W=1, R=1, S=1, P=1, Q=1), 1)]
    else:
        k_, c = {
            "conv2d": (n + 3, k + 5), "conv2d_grad_input": (k + 5, n + 3), "conv2d_grad_weight": (m + 3, n + 3),
        }[kind]  # fmt: skip
        plain = dict(C=c, H=high, W=3, K=k_, R=2, S=1, P=high, Q=3, PT=1)
        strided = dict(C=c, H=2 * high, W=5, K=k_, R=1, S=3, P=high, Q=3, SH=2, SW=2, PL=1)
        few = dict(C=3, H=high, W=3, K=19, R=3, S=3, P=high, Q=3, PT=1, PL=1)
        shapes = [(plain, 3), (plain, 1), (few, 3), (strided, 2)]
    return [(Problem.of("sm_90", kind, dtype, {"N": 4, **shape}), batch) for shape, batch in shapes]
