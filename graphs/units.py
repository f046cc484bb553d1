"""The unit of the Inception papers: what they call a "conv" is a convolution, batch norm and ReLU."""

from typing import Any

from tricnn.ir import GraphBuilder

from .widths import scaled

#: options of a unit that shrinks the image: stride 2, no padding ("stride 2 V" in the figures)
REDUCE = {"stride": 2, "padding": 0}
#: ... and of one that is not padded (marked "V")
VALID = {"padding": 0}


class UnitBuilder(GraphBuilder):
    """A builder with units, whose filters are ``width`` times as many as written.

    ``norm=False`` leaves batch norm out and gives the convolution a bias: the networks before batch norm. Their weights
    start with variance 2/fan_in, for nothing but that keeps the image's scale through 1x1 convolutions to few filters.
    """

    def __init__(self, name: str, width: float = 1.0, *, norm: bool = True, eps: float = 1e-3):
        super().__init__(name)
        self.scaled = scaled(width)
        self.norm, self.eps = norm, eps

    def unit(self, x: str, filters: int, kernel_size: int | tuple[int, int], name: str, **options: Any) -> str:
        """``relu(bn(conv2d(x)))``, padded to keep the image's size unless ``padding`` says otherwise.

        Its layers are ``name.conv`` and ``name.bn``, as torchvision and timm have them.
        """
        r, s = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        options = {"padding": (r // 2, s // 2), **options}
        if not self.norm:
            options.setdefault("weight_init", "he_normal(fan_in)")
        with self.scope(name):
            x = self.conv2d(x, self.scaled(filters), (r, s), bias=not self.norm, name="conv", **options)
            if self.norm:
                x = self.batch_norm(x, name="bn", eps=self.eps)
            return self.relu(x, name="relu")

    def branch(self, x: str, name: str, *units: Any, first: int = 0) -> str:
        """Units one after the other, each ``(filters, kernel size)`` or ``(filters, kernel size, options)``.

        The ``{}`` in ``name`` is the unit's number, counted from ``first``.
        """
        for number, (filters, kernel_size, *options) in enumerate(units, first):
            x = self.unit(x, filters, kernel_size, name.format(number), **(options[0] if options else {}))
        return x
