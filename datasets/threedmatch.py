"""3DMatch and 3DLoMatch as the OverlapPredator authors distribute them, and whatever has the same layout."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from .cloud_files import read_cloud
from .indoor_scenes import RegistrationPair
from .pair_lists import inside, read_pair_list
from .poses import nearest_pose

# Of the published training list: a bad scan, and a room that the validation list has as well.
NOT_FOR_TRAINING = ("7-scenes-fire/cloud_bin_19.", "analysis-by-synthesis-apt2-kitchen/")


class ThreeDMatch:
    """Map-style dataset of pairs of scans, in the order of their list.

    Args:
        root: folder that the names in the list start from.
        pairs: the list, a pickle below `root` or anywhere: a dict of lists `src, tgt, rot, trans, overlap`, or a list
            of dicts with these names or with those of GeoTransformer. The pose maps the source, fragment j, to the
            target, fragment i.
        overlap: lowest (exclusive) and highest overlap kept, as listed.
        without: pairs with a name that contains any of these are left out, such as `NOT_FOR_TRAINING`.
    Raises:
        FileNotFoundError: no such list.
        ValueError: a list that is damaged, holds other things than arrays and numbers, or lacks a column.
    Source: Huang et al., "PREDATOR", CVPR 2021, for the layout.

    >>> import tempfile
    >>> from rotaware.datasets import write_indoor_rooms
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_indoor_rooms(folder, [100005], 2, frames=2)
    ...     pairs = ThreeDMatch(folder, "pairs.pkl")
    ...     name = pairs[0].name
    >>> name
    'room100005/cloud_bin_1 to room100005/cloud_bin_0'
    """

    def __init__(
        self,
        root: str | PathLike[str],
        pairs: str | PathLike[str],
        *,
        overlap: tuple[float, float] = (0.0, 1.0),
        without: Sequence[str] = (),
    ) -> None:
        self.root = Path(root)
        self.list_file = self.root / pairs
        kept = [
            pair
            for pair in read_pair_list(self.list_file)
            if overlap[0] < pair.overlap <= overlap[1]
            and not any(part in name for name in (pair.source, pair.target) for part in without)
        ]
        self.sources = [pair.source for pair in kept]
        self.targets = [pair.target for pair in kept]
        self.overlaps = [pair.overlap for pair in kept]
        self.poses = [nearest_pose(pair.T_target_source) for pair in kept]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> RegistrationPair:
        """Pair `index` of the list.

        Raises:
            IndexError: no such pair.
            FileNotFoundError: a cloud is missing.
            ValueError: a cloud is damaged, or named outside the root.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a value in [{-len(self)}, {len(self)}), got {index}")
        names = self.sources[index], self.targets[index]
        source, target = (read_cloud(inside(self.root, name, str(self.list_file))) for name in names)
        title = " to ".join(str(Path(name).with_suffix("")) for name in names)
        return RegistrationPair(source, target, self.poses[index], self.overlaps[index], title)
