"""All files of a campaign as one, so that they can be taken from a machine in one step."""

import tarfile
from pathlib import Path
from typing import BinaryIO

from cluster_specs.files.whole import write_whole


def archive_of(folder: Path) -> Path:
    """Return the archive of a campaign's folder, which lies beside it."""
    return folder.resolve().with_name(f"{folder.resolve().name}.tar")


def pack(folder: Path) -> Path:
    """Write the archive whole or not at all, replacing an older one; raises ``OutputError`` when the disk refuses."""
    path = archive_of(folder)

    def fill(stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(folder, arcname=folder.resolve().name)

    write_whole(path, fill)
    return path
