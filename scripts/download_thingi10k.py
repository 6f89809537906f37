"""Download Thingi10K models as PLY files: by default the 32 of NGLOD's "Thingi32", else those that
ids or filters choose, or `all` of them.

    pip install -c constraints.txt -e '.[thingi10k]'
    python scripts/download_thingi10k.py
    python scripts/download_thingi10k.py 53159 76277
    python scripts/download_thingi10k.py solid=true num_components=1 num_facets=10000:60000
      license='public domain'
    python scripts/download_thingi10k.py all

The `thingi10k` package fetches the whole collection once (gigabytes, into the Hugging Face cache:
HF_HOME chooses where); the chosen models are then written as ID.ply, in their own units, and
ID.json: name, author and licence. Files that exist are kept, so the same command resumes. A model
that cannot be read is named at the end, and the others are written.
"""

import argparse
import difflib
import inspect
import json
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from tqdm import tqdm

from dss import cli
from dss.errors import InputError, listed
from dss.files import replacing

THINGI32 = (
    252119, 313444, 316358, 354371, 398259, 441708, 44234, 47984, 527631, 53159, 58168, 64444,
    64764, 68380, 68381, 72870, 72960, 73075, 75496, 75655, 75656, 75662, 75665, 76277, 77245,
    78671, 79241, 90889, 92763, 92880, 95444, 96481,
)  # fmt: skip
FACTS = ("file_id", "thing_id", "name", "author", "license", "num_vertices", "num_facets")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "choice",
        nargs="*",
        help="ids, filters of thingi10k.dataset as name=value (ranges are low:high), or all",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/thingi10k"),
        help="folder to write to (data/thingi10k)",
    )
    args = parser.parse_args()
    try:
        import thingi10k
    except ImportError as error:
        raise InputError(
            f"{error}; first: pip install -c constraints.txt -e '.[thingi10k]'"
        ) from error

    ids, filters = parse(args.choice, inspect.signature(thingi10k.dataset).parameters)
    try:
        thingi10k.init()
    except RuntimeError as error:
        raise InputError(
            f"Thingi10K cannot be fetched ({error}); check the network, then give the same command"
        ) from error
    chosen = {"file_id": ids, **filters} if ids else filters
    export(thingi10k.dataset(**chosen), thingi10k.load_file, args.out, ids)
    print(args.out)


def parse(words: Iterable[str], names: Collection[str]) -> tuple[list[int], dict[str, Any]]:
    """Ids and filters of the command line. No words mean Thingi32, and `all` means no filter.

    Values: true or false, a number, a range low:high of which one end may be missing, else text.
    Raises InputError on a filter that is not among `names`, and on a word that is neither.
    """
    ids, filters = [], {}
    if (words := list(words)) == ["all"]:
        return ids, filters
    for word in words:
        name, equals, value = word.partition("=")
        if word.isdecimal():
            ids.append(int(word))
        elif equals and name in names:
            filters[name] = _value(value)
        else:
            near = difflib.get_close_matches(name, names, 1, 0)
            raise InputError(
                f"{word}: neither an id nor a filter name=value; did you mean {near[0]}=?"
            )
    return ids if ids or filters else list(THINGI32), filters


def _value(text: str) -> Any:
    low, colon, high = text.partition(":")
    if colon and (low + high).isdecimal():
        return (int(low) if low else None, int(high) if high else None)
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else text


def export(
    entries: Collection[dict[str, Any]],
    load: Callable[[str], tuple[np.ndarray, np.ndarray]],
    folder: Path,
    ids: Collection[int] = (),
) -> None:
    """Write each entry of the collection as ID.ply, with its facts in ID.json; keep the files that
    exist.

    `load` maps an entry's file_path to vertices (v, 3) and faces (f, 3). Raises InputError where
    the collection lacks one of `ids`, or has nothing that matches, or holds one that cannot be
    read, after writing the others.
    """
    if not len(entries):
        raise InputError("no model of Thingi10K matches; relax the filters")
    unreadable = set()
    for entry in tqdm(entries, unit="model", disable=None):
        target = folder / f"{entry['file_id']}.ply"
        if not target.exists():
            try:
                vertices, faces = load(entry["file_path"])
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                unreadable.add(entry["file_id"])
                continue
            with replacing(target.with_suffix(".json")) as temporary:
                temporary.write_text(
                    json.dumps({fact: entry[fact] for fact in FACTS}, indent=2) + "\n"
                )
            with replacing(target) as temporary:
                trimesh.Trimesh(vertices, faces, process=False).export(temporary)
    missing = unreadable | (set(ids) - {entry["file_id"] for entry in entries})
    if missing:
        raise InputError(
            f"Thingi10K has no usable model {listed([*map(str, sorted(missing))])}; the others are "
            f"in {folder}"
        )


if __name__ == "__main__":
    cli.run(main)
