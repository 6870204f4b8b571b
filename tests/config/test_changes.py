"""Noticing changes of a config's files, as editors, packages and Kubernetes make them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aura_agent.config.changes import changes, fingerprint, lookup_directories
from tests.waiting import until


class Heard:
    """How many changes have been told."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path

    async def listen(self) -> None:
        async for _ in changes(str(self._path)):
            self.count += 1

    async def after(self, count: int) -> None:
        await until(lambda: self.count == count)


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Heard]:
    heard = Heard(path)
    task = asyncio.create_task(heard.listen())
    await heard.after(1)  # it is watching
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
async def test_a_file_written_anew_or_put_in_its_place_is_a_change(tmp_path: Path) -> None:
    """In place, by rename, gone, back again; and further files in conf.d, which needn't be there before."""
    path = tmp_path / "config.toml"
    path.write_text("1")
    async with listening(path) as heard:
        path.write_text("2")
        await heard.after(2)
        (tmp_path / ".config.toml.swp").write_text("3")
        os.replace(tmp_path / ".config.toml.swp", path)
        await heard.after(3)
        path.unlink()
        await heard.after(4)
        path.write_text("3")
        await heard.after(5)
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d" / "10.toml").write_text("a")
        await heard.after(6)
        (tmp_path / "conf.d" / "10.toml").write_text("b")
        await heard.after(7)


@pytest.mark.anyio
async def test_the_swap_of_a_configmaps_link_is_a_change(tmp_path: Path) -> None:
    """As kubelet's AtomicWriter does it: a new directory, then the link ..data is renamed over; twice, and all at once."""

    def project(name: str, text: str) -> None:
        directory = tmp_path / "mounted" / f"..2026_{name}"
        (directory / "conf.d").mkdir(parents=True)
        for file in ("config.toml", "conf.d/jobs.toml"):
            (directory / file).write_text(text)
        (tmp_path / "mounted" / "..data_tmp").symlink_to(directory.name)
        os.rename(tmp_path / "mounted" / "..data_tmp", tmp_path / "mounted" / "..data")

    project("one", "1")
    for name in ("config.toml", "conf.d"):
        (tmp_path / "mounted" / name).symlink_to(f"..data/{name}")
    (tmp_path / "etc").symlink_to("mounted")
    async with listening(tmp_path / "etc" / "config.toml") as heard:
        project("two", "2")
        await heard.after(2)
        project("three", "3")
        await heard.after(3)


def test_only_the_content_makes_a_difference(tmp_path: Path) -> None:
    """Neighbours, a touch and the same text again make none; a file of the same text beside it does."""
    path = tmp_path / "config.toml"
    path.write_text("same")
    before = fingerprint(str(path))
    (tmp_path / "other.toml").write_text("x")
    os.utime(path, (0, 0))
    path.write_text("same")
    assert fingerprint(str(path)) == before
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text("")

    assert fingerprint(str(path)) != before


def test_links_that_lead_nowhere_or_in_circles_end(tmp_path: Path) -> None:
    """Whatever lies on the way, the directories that decide are found, and no others."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to(f"{tmp_path}/none/deeper/config.toml")

    assert lookup_directories(str(tmp_path / "loop")) == {str(tmp_path)}
    assert lookup_directories(str(tmp_path / "gone")) == {str(tmp_path)}
