"""Small networks that between them use every operation."""

from tricnn.ir import Graph, GraphBuilder


def network(kind: str) -> Graph:
    b = GraphBuilder(kind)
    x = b.input("x", (4, 9, 9))
    if kind == "grouped":  # groups, local response norm, overlapping pooling, dropout
        h = b.relu(b.conv2d(x, 12, 3, padding=1, groups=2, name="c1"))
        h = b.add("local_response_norm", h, size=5, alpha=1e-1, beta=0.75, k=2.0)
        h = b.dropout(b.max_pool2d(h, 3, 2, padding=1), 0.3)
    elif kind == "branches":  # concat, slices, dilation, asymmetric padding, strides per axis, ceil mode
        left, right = b.conv2d(x, 6, 1, name="a"), b.conv2d(x, 5, 3, padding=1, name="b")
        pooled = b.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
        h = b.tanh(b.concat([left, right, pooled]))
        h = b.conv2d(h, 8, (3, 1), stride=(2, 1), padding=(0, 1, 2, 0), dilation=(1, 2), name="d")
        h = b.batch_norm(h, name="bn")
        h = b.concat([b.add("slice_channels", h, start=2, stop=6), h])
        h = b.avg_pool2d(b.sigmoid(h), 2, 2, ceil_mode=True)
    elif kind == "residual":  # batch norm, strided convolution, a join, global pooling
        h = b.relu(b.batch_norm(b.conv2d(x, 8, 3, stride=2, padding=1, bias=False, name="c1"), name="b1"))
        shortcut = h
        h = b.relu(b.batch_norm(b.conv2d(h, 8, 3, padding=1, bias=False, name="c2"), name="b2"))
        h = b.batch_norm(b.conv2d(h, 8, 1, bias=False, name="c3"), name="b3")
        h = b.global_avg_pool(b.dropout(b.relu(b.add_(h, shortcut)), 0.2))
    elif kind == "heads":  # a flattened image read by more than a dense layer, softmax, two losses
        flat = b.flatten(b.conv2d(x, 5, 3, name="c1"))
        soft = b.add("scale", b.softmax(b.linear(flat, 4, name="q")), factor=3.0)
        b.output(soft, name="soft", loss_weight=0.3)
        h = b.linear(b.dropout(b.relu(flat), 0.4), 7, name="l1")
        return b.build(b.linear(b.relu(h), 3, name="l2"))
    elif kind == "small":  # a convolution, batch norm, dropout: few launches, for what any network would show
        h = b.relu(b.batch_norm(b.conv2d(x, 4, 3, stride=3, bias=False, name="c1"), name="b1"))
        h = b.dropout(b.global_avg_pool(h), 0.3)
    else:
        raise AssertionError(kind)
    return b.build(b.linear(h, 3, name="fc"))


KINDS = ("grouped", "branches", "residual", "heads")
