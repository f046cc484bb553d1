"""Where the IDX data sets are: in a folder the user names, where Debian puts them, or on their own sites."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..system.errors import DataError
from ..system.files import held
from ..system.limits import LARGEST_DOWNLOAD
from ..system.paths import cache_folder, user_path

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
#: a file of a set of one's own; before it may stand whose it is (emnist-letters-train-images-idx3-ubyte.gz)
OWN = re.compile(r"(?:.*[-_.])?(train|t10k|test)[-_](images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """Where a data set can be had: URLs (with a trailing slash) and the MD5 of each gzipped part."""

    sites: tuple[str, ...]
    md5: Mapping[str, str]
    debian_package: str | None = None


SOURCES: dict[str, Source] = {
    "fashion-mnist": Source(
        sites=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        # github.com/zalandoresearch/fashion-mnist, README.md
        md5={
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        debian_package="dataset-fashion-mnist",
    ),
    "mnist": Source(
        # LeCun's own page answers no longer to everyone; the second is PyTorch's copy of it.
        sites=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        # github.com/pytorch/vision, torchvision/datasets/mnist.py
        md5={
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
}

DEBIAN = Path("/usr/share/datasets")


def find(name: str, data_dir: str | Path | None = None, note: Callable[[str], None] | None = None) -> dict[str, Path]:
    """The files of a data set, by part.

    It is looked for, in this order, in ``data_dir``, ``$TRICNN_DATA``, /usr/share/datasets and the cache, each under
    ``<folder>/<name>`` first and, in the two that the user names, ``<folder>`` itself; then it is downloaded.

    ``note`` is told of a download. Raises DataError with the three ways to get the data if all that fails, and for a
    folder that holds some of the four files but not all.
    """
    given = [user_path(d) for d in (data_dir, os.environ.get("TRICNN_DATA")) if d]
    if data_dir and not given[0].is_dir():
        raise DataError(f"data folder {given[0]} does not exist")
    own = cache_folder()
    cache = [] if own is None else [own / "data"]
    for folder in [f for d in given for f in (d / name, d)] + [d / name for d in (DEBIAN, *cache)]:
        if files := _parts_in(folder):
            return files
    if not (places := given or cache):
        raise DataError(f"{name}: {_three_ways(name)} (no download: there is no home folder to keep it in)")
    return _download(SOURCES[name], places[0] / name, note or (lambda text: None))


def _parts_in(folder: Path) -> dict[str, Path] | None:
    found, missing = {}, []
    for part in PARTS:
        names = (part, part + ".gz", part.replace("-idx", ".idx"), part.replace("-idx", ".idx") + ".gz")
        path = next((folder / n for n in names if (folder / n).is_file()), None)
        if path:
            found[part] = path
        else:
            missing.append(part)
    if found and missing:
        raise DataError(f"{folder}: expected four IDX files, found {len(found)}; missing {', '.join(missing)} (or .gz)")
    return found or None


def parts_of_folder(folder: Path) -> dict[str, Path] | None:
    """The four IDX files of whatever set lies in a folder, by part; None where there are none.
    The test part may be called ``test`` as well as ``t10k``. Raises DataError if some are missing, or are of two sets.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if (name := OWN.fullmatch(path.name)) is None:
            continue
        part = next(p for p in PARTS if p.startswith(f"{'train' if name[1] == 'train' else 't10k'}-{name[2]}"))
        other = found.setdefault(part, path)
        if other.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
            raise DataError(f"{folder}: expected the IDX files of one set, found {other.name} and {path.name}")
    if found and (missing := [part for part in PARTS if part not in found]):
        raise DataError(f"{folder}: expected four IDX files, found {len(found)}; missing {', '.join(missing)} (or .gz)")
    return found or None


def _three_ways(name: str) -> str:
    source, folder = SOURCES[name], "put its four IDX files in a folder and name it with --data-dir"
    if source.debian_package:
        ways = [f"apt-get install {source.debian_package}", f"{folder} or $TRICNN_DATA"]
    else:
        ways = [folder, "name such a folder in $TRICNN_DATA"]
    ways.append(f"run this once where {source.sites[0]} can be reached")
    return "not found; three ways to get it: " + "; ".join(f"({i}) {way}" for i, way in enumerate(ways, 1))


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split())[:160]


def _download(source: Source, folder: Path, note: Callable[[str], None]) -> dict[str, Path]:
    """All four parts in ``folder``, by name, from the first site that gives the right bytes.
    Whoever else wants them at the same time waits, and finds them. What the folder holds besides stays there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            held(folder.parent, lambda: note(f"waiting for somebody who is downloading to {folder.parent}")),
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as partial,
        ):
            if files := _parts_in(folder):
                return files
            _fetch_all(source, folder.name, Path(partial), note)
            folder.mkdir(exist_ok=True)
            for part in PARTS:
                os.replace(Path(partial, f"{part}.gz"), folder / f"{part}.gz")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return {part: folder / f"{part}.gz" for part in PARTS}


def _fetch_all(source: Source, name: str, folder: Path, note: Callable[[str], None]) -> None:
    problem: Exception = OSError("it has no site")
    for site in source.sites:
        note(f"downloading {name} from {site}")
        try:
            contents = {part: _fetch(site + part + ".gz", source.md5[part]) for part in PARTS}
        except (OSError, ValueError) as error:
            problem = error
            continue
        for part, content in contents.items():
            (folder / f"{part}.gz").write_bytes(content)
        return
    raise DataError(f"{name}: {_three_ways(name)} (download: {_reason(problem)})")


def _fetch(url: str, md5: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        content: bytes = response.read(LARGEST_DOWNLOAD + 1)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"{url}: expected MD5 {md5}, found {digest}")
    return content
