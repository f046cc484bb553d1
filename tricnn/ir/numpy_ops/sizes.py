"""How many windows fit."""


def output_size(
    size: int, kernel: int, stride: int, pad_before: int, pad_after: int, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """floor((size + pad_before + pad_after - dilation * (kernel - 1) - 1) / stride) + 1 along one axis.

    With `ceil_mode` the division rounds up, but a last window that would start in the trailing padding is dropped (it
    must start inside the input or the leading padding). This is PyTorch's rule. A result below 1 means that no window
    fits.
    """
    room = size + pad_before + pad_after - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    if (count - 1) * stride >= size + pad_before:
        count -= 1
    return count
