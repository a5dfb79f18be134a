"""Generate rooms with several scans each, in the layout of 3DMatch, as training data; run again to go on."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from rotaware.datasets import write_indoor_rooms


def main() -> None:
    """Write the rooms and the list of pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder, made if it does not exist")
    parser.add_argument("--rooms", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=100_000)
    parser.add_argument("--scans", type=int, default=8, help="per room, 0.45 seconds each on one core")
    parser.add_argument("--least-overlap", type=float, default=0.1, help="of the pairs that are listed (%(default)s)")
    parser.add_argument("--most-overlap", type=float, default=1.0, help="(%(default)s)")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.rooms)
    with tqdm(total=args.rooms, unit="room") as bar:
        pairs = write_indoor_rooms(
            args.root,
            seeds,
            args.scans,
            least_overlap=args.least_overlap,
            most_overlap=args.most_overlap,
            on_room=lambda _: bar.update(),
        )
    print(f"{pairs} pairs in {args.root}")


if __name__ == "__main__":
    main()
