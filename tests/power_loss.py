"""What a disk may hold after the power was cut: of what was not waited for, any part.

The rules are the weakest that POSIX gives, weaker than those of any journal. The bytes of a file
are there for certain once the file was synced; until then all, half, none, or zeros in their
place. A name in a folder is certain once that folder was synced; until then each creation,
renaming and deletion may have reached the disk or not, in any order, but a rename is never half
done, and none works on what is not there.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

# How the bytes that were not waited for are found.
TEARS = {
    "all": lambda data: data,
    "half": lambda data: data[: len(data) // 2],
    "none": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "a block of zeros": lambda data: data[: len(data) // 3] + bytes(len(data) - len(data) // 3),
}
_NAMING = ("create", "mkdir", "unlink", "rmdir", "rename", "symlink")


class _File:
    def __init__(self, data=b""):
        self.data = data
        self.certain = len(data)

    def found(self, tear):
        return self.data[: self.certain] + TEARS[tear](self.data[self.certain :])


def read_tree(folder):
    """Return a folder as nested dicts of files and links (as text), all of it certain."""
    tree = {}
    for entry in os.scandir(folder):
        if entry.is_symlink():
            tree[entry.name] = os.readlink(entry.path)
        elif entry.is_dir():
            tree[entry.name] = read_tree(entry.path)
        else:
            tree[entry.name] = _File(Path(entry.path).read_bytes())
    return tree


def write_tree(tree, folder, tear):
    """Write what `read_tree` gave, changed since or not."""
    os.mkdir(folder)
    for name, item in tree.items():
        path = os.path.join(folder, name)
        if isinstance(item, dict):
            write_tree(item, path, tear)
        elif isinstance(item, str):
            os.symlink(item, path)
        else:
            Path(path).write_bytes(item.found(tear))


def states_after(folder, base, changes, num_done, choose, limit):
    """Yield trees that the disk may hold when the power is cut after `num_done` changes.

    All of them where they are at most `limit`, else the orderly ones and a choice of the others.

    Args:
        folder: the folder that was watched.
        base: a function that gives its tree before the changes, anew at each call.
        changes: as FaultyDisk noted them.
    """
    done = changes[:num_done]
    naming = [n for n, change in enumerate(done) if change.kind in _NAMING]
    open_ = [n for n in naming if not _is_certain(n, done)]
    for lost in _subsets(open_, choose, limit):
        yield _replay(folder, base(), done, set(lost))


def _is_certain(number, done):
    parent = os.path.dirname(done[number].path)
    return any(later.kind == "fsync" and later.path == parent for later in done[number + 1 :])


def _subsets(items, choose, limit):
    """Yield what is lost of `items`: the later ones, then any."""
    if 2 ** len(items) <= limit:
        for size in range(len(items) + 1):
            yield from itertools.combinations(items, size)
        return
    for first in range(len(items) + 1):
        yield items[first:]
    for _ in range(limit - len(items) - 1):
        share = choose.random()
        yield [item for item in items if choose.random() < share]


def _replay(folder, tree, done, lost):
    # Both what everyone saw (`seen`) and what the disk has (`tree`), of the same files: a folder
    # that was made, and whose name is lost, still takes what is put in it.
    seen = dict(_flat(tree, str(folder)))
    seen[str(folder)] = tree
    for number, change in enumerate(done):
        if change.kind == "write":
            seen[change.path].data += change.other
        elif change.kind == "fsync":
            item = seen.get(change.path)
            if isinstance(item, _File):
                item.certain = len(item.data)
        elif change.kind in _NAMING:
            _rename_in(seen, change, number not in lost)
    return tree


def _flat(tree, folder):
    for name, item in tree.items():
        path = f"{folder}/{name}"
        yield path, item
        if isinstance(item, dict):
            yield from _flat(item, path)


def _rename_in(seen, change, reaches_disk):
    """Do a change of names for everyone to see, and on the disk where it reaches it."""
    parent, name = os.path.split(change.path)
    on_disk = seen[parent]
    if change.kind in ("create", "mkdir", "symlink"):
        new = {"create": _File, "mkdir": dict}.get(change.kind, lambda: change.other)()
        seen[change.path] = new
        if reaches_disk:
            on_disk[name] = new
        return
    moved = seen.pop(change.path)
    if change.kind == "rename":
        seen[change.other] = moved
        for path in [path for path in seen if path.startswith(change.path + "/")]:
            seen[change.other + path[len(change.path) :]] = seen.pop(path)
    if reaches_disk and on_disk.get(name) is moved:
        to = os.path.basename(change.other) if change.kind == "rename" else None
        # No rename over a folder that holds something, nor deletion of one.
        in_the_way = on_disk.get(to) if to else moved if change.kind == "rmdir" else None
        if isinstance(in_the_way, dict) and in_the_way:
            return
        del on_disk[name]
        if to:
            on_disk[to] = moved
