"""A file is the old one or the new one, never half of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotaware.geo.files import clear_unfinished, write_whole


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["zwölf\r\n", b"\x00\xff", lambda path: path.write_bytes(b"made")])
def test_writes_what_it_is_given(tmp_path: Path, content: object, durable: bool) -> None:
    file = tmp_path / "new" / "folder" / "file"
    write_whole(file, content, durable=durable)  # type: ignore[arg-type]
    expected = content.encode() if isinstance(content, str) else content if isinstance(content, bytes) else b"made"
    assert file.read_bytes() == expected
    assert list(file.parent.iterdir()) == [file]


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(str(file), "old")

    def interrupted(unfinished: Path) -> None:
        unfinished.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, interrupted)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_whole(file, "old")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(file, "new")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    file, other = tmp_path / "last.ckpt", tmp_path / ".last.ckpts"
    for path in (file, other, tmp_path / ".last.ckpt.123"):
        path.write_text("")
    clear_unfinished(file)
    assert sorted(tmp_path.iterdir()) == [other, file]
