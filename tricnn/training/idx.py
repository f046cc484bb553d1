"""IDX, the format of MNIST and its successors: a header, then the elements, big-endian, plain or gzipped.

    byte 0, 1   zero
    byte 2      element type; 0x08 is an unsigned byte
    byte 3      number of dimensions, then as many 32-bit sizes

(LeCun, Cortes, Burges: THE MNIST DATABASE of handwritten digits, "THE IDX FILE FORMAT".)
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..system.errors import DataError
from ..system.limits import LARGEST_IDX, MOST_IMAGES

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path, dimensions: int) -> NDArray[np.uint8]:
    """The unsigned bytes in ``path``, shaped as its header says.

    Raises DataError, naming the file, what was expected and what was found, if it is not an IDX file of bytes with
    that many dimensions, or is shorter or longer than its header says. Whether it is gzipped is read off its first
    bytes, not its name.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not gzipped:
                return _read(raw, path, dimensions)
            with gzip.open(raw) as plain:
                return _read(plain, path, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file, found a damaged or truncated one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if header[:4] != magic:
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes in {dimensions} dimensions (it begins {magic.hex(' ')}),"
            f" found {header[:4].hex(' ') or 'an empty file'}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path}: expected {dimensions} sizes in its header, found {(len(header) - 4) // 4}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    if not (0 < size <= LARGEST_IDX and shape[0] <= MOST_IMAGES):
        raise DataError(
            f"{path}: expected between 1 and {LARGEST_IDX} elements of at most {MOST_IMAGES} images or labels, found a "
            f"header of shape {list(shape)}"
        )
    data = file.read(size + 1)
    if len(data) != size:
        found = f"only {len(data)}" if len(data) < size else "more"
        raise DataError(f"{path}: expected {size} bytes of data for shape {list(shape)}, found {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)
