"""What VisualDL reads of a folder, by its own reader."""

from __future__ import annotations


def read_shown(folder, component, tag):
    """Return the records of one kind and tag, as VisualDL's server has them."""
    from visualdl import LogReader

    (file,) = folder.glob("vdlrecords.*.log")
    return LogReader(file_path=str(file)).get_data(component, tag)


def tags_shown(folder):
    """Return the tags that there are of each kind."""
    from visualdl import LogReader

    (file,) = folder.glob("vdlrecords.*.log")
    return LogReader(file_path=str(file)).get_tags()
