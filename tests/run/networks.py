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
    elif kind == "resized":  # transposed convolution, every resampling, padding and cropping; batch norm across them
        h = b.relu(b.batch_norm(b.conv2d(x, 4, 3, stride=2, name="c1"), name="b1"))
        h = b.conv2d(b.interpolate(h, scale_factor=2), 4, 3, padding=1, bias=False, name="c2")
        h = b.relu(b.batch_norm(b.interpolate(h, (9, 7), mode="bilinear"), name="b2"))
        h = b.conv_transpose2d(h, 5, (3, 2), stride=(2, 1), padding=(1, 0, 0, 1), output_padding=(1, 0), name="t")
        h = b.relu(b.zero_pad2d(h, (1, -3, -1, 2)))
        h = b.conv2d(b.interpolate(h, (6, 11), mode="bilinear", align_corners=True), 3, 1, name="c3")
        h = b.interpolate(b.relu(h), (4, 5))
        h = b.concat([b.adaptive_avg_pool2d(h, (3, 2)), b.adaptive_avg_pool2d(h, (3, 2))])
    elif kind == "shuffled":  # channels and pixels moved, read by grouped convolutions, slices and a sum
        h = b.relu(b.batch_norm(b.conv2d(x, 8, 1, stride=(3, 4), bias=False, name="c1"), name="b1"))
        h = b.batch_norm(b.conv2d(b.channel_shuffle(h, 4), 8, 1, groups=2, bias=False, name="g"), name="b2")
        h = b.conv2d(b.pixel_shuffle(h, 2), 4, 3, padding=1, name="c2")
        h = b.relu(b.pixel_unshuffle(b.relu(h), 2))
        one, two, _ = b.split(b.channel_shuffle(h, 4), (7, 7, 2))
        h = b.global_max_pool(b.conv2d(b.add_(b.relu(one), two), 6, 1, name="c3"))
    elif kind == "small":  # a convolution, batch norm, dropout: few launches, for what any network would show
        h = b.relu(b.batch_norm(b.conv2d(x, 4, 3, stride=3, bias=False, name="c1"), name="b1"))
        h = b.dropout(b.global_avg_pool(h), 0.3)
    else:
        raise AssertionError(kind)
    return b.build(b.linear(h, 3, name="fc"))


KINDS = ("grouped", "branches", "residual", "heads", "resized", "shuffled")
