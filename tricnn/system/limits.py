"""What tricnn takes on, in numbers: beyond them a network, a file or an option is refused before any work begins.

docs/architecture.md has them as a table, which a test holds to this file. None is near what a real network needs; each
keeps a small file from asking for minutes or gigabytes.
"""

from __future__ import annotations

# --- files, in bytes
LARGEST_GRAPH_FILE = 16 << 20  # a graph as text
LARGEST_LINE = 1 << 20  # of a graph as text, in characters
MOST_ITEMS = 1 << 16  # of the lists in one of its lines
LARGEST_TUNED_FILE = 16 << 20
LARGEST_REPORT = 64 << 20  # a page or an object of `tricnn report`, packed or not
LARGEST_ENTRY = 256 << 20  # of the cache of kernels, packed or not
LARGEST_IDX = 1 << 30  # the numbers in an IDX file, a byte each
MOST_IMAGES = 1 << 24  # and labels in one
LARGEST_DOWNLOAD = 64 << 20  # one file of a data set
LARGEST_MESSAGE = 2000  # characters of an error or a warning on the terminal

# --- networks, as they are declared
MOST_NODES = 20_000  # layers, parameters and statistics together
MOST_OPERANDS = 1_000  # of one layer
MOST_OUTPUTS = 1_000
MOST_AXES = 8  # of a parameter
MOST_ELEMENTS = 2**31 - 1  # of a value for one image
MOST_WEIGHTS = 2**33  # of a parameter: a dense layer over a photograph of 36 million numbers has 3.6 billion
MOST_GROUPS = 1 << 16  # of a convolution
WIDEST_IMAGE = 1 << 20  # its height, its width
WIDEST = 1 << 16  # windows, strides, dilations and padding, in pixels or channels
