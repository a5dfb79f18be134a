"""`rotaware apply`: move a cloud by a known transform, keeping everything else in the file."""

from __future__ import annotations

import argparse
from pathlib import Path

from .messages import ExitCode, format_count

SUMMARY = "move CLOUD by the transform in T and write OUT with all attributes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware apply`."""
    parser.add_argument("transform", metavar="T", help="result.json, or a 4x4 matrix as .json, .txt or .npy")
    parser.add_argument("cloud", metavar="CLOUD", help="the cloud to move")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="file to write; its ending picks the format")
    parser.add_argument("--inverse", action="store_true", help="apply the inverse: from target to source")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> int:
    """Read, move, write under a temporary name, put in place."""
    from rotaware.pointcloud import (
        InputError,
        read_point_cloud,
        write_point_cloud,
    )

    from .transforms import inverse, read_transform

    out = Path(options.out)
    if out.is_dir():
        raise InputError(f"cannot write {options.out!r}: it is a folder; name a file")
    if out.exists() and not options.force:
        raise InputError(f"{options.out!r} exists; --force replaces it")
    matrix = read_transform(options.transform)
    cloud = read_point_cloud(options.cloud)
    write_point_cloud(out, cloud.transformed(inverse(matrix) if options.inverse else matrix))
    print(f"wrote {out}   {format_count(len(cloud))} pts")
    return int(ExitCode.REGISTERED)
