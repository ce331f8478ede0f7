"""The store keeps every ruling through kills, torn lines, full disks and second processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.judges.items import Ruling
from aad_plugin.judges.sitting.store import Store


def test_rulings_come_back(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("k", p=0.0, model="m", prompt_tokens=3, reply="B"))
        store.note("probe", judge="j", form="json")
    with Store(tmp_path) as again:
        assert again.id == store.id
        assert again.find("k") == Ruling("k", p=0.0, model="m", prompt_tokens=3)  # replies stay on disk
        assert again.noted("probe", judge="j")[0]["form"] == "json"
    assert '"reply": "B"' in (tmp_path / "store.jsonl").read_text()


def test_a_failure_never_replaces_a_value_and_a_value_replaces_a_failure(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("k", reason="transport"))
        store.add(Ruling("k", p=0.7))
        store.add(Ruling("k", reason="refusal"))
        assert store.find("k").p == 0.7
    with Store(tmp_path) as again:
        assert again.find("k").p == 0.7


def test_torn_last_line_is_left_out_and_the_next_one_is_whole(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("a", p=1.0))
    with (tmp_path / "store.jsonl").open("ab") as file:
        file.write(b'{"type": "ruling", "key": "b", "p"')
    with Store(tmp_path) as again:
        assert again.num_torn == 1 and again.find("b") is None and again.find("a").p == 1.0
        again.add(Ruling("c", p=0.25))
    with Store(tmp_path) as last:
        assert last.find("c").p == 0.25


def test_a_newer_format_is_not_touched(tmp_path):
    path = tmp_path / "store.jsonl"
    path.write_text(json.dumps({"type": "store", "format": 2, "id": "x"}) + "\n")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"a newer aad_plugin \(store format 2, this version reads up to 1\)"):
        Store(tmp_path).__enter__()
    assert path.read_bytes() == before


def test_full_disk_is_one_clear_error_and_the_store_stays_readable(tmp_path, monkeypatch):
    write = os.write

    def full(fd, data):
        write(fd, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store(tmp_path) as store:
        store.add(Ruling("a", p=1.0))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(JudgeError, match=r"No space left on device; 1 rulings are kept there; make room and run"):
            store.add(Ruling("b", p=1.0))
        monkeypatch.undo()
    with Store(tmp_path) as again:
        assert again.find("a").p == 1.0 and again.find("b") is None


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot keep verdicts in .*file"):
        Store(tmp_path / "file").__enter__()


WRITER = """
import sys, time
from aad_plugin.judges.items import Ruling
from aad_plugin.judges.sitting.store import Store
with Store(sys.argv[1]) as store:
    for i in range(50):
        if store.find(f"k{i}") is None:
            store.add(Ruling(f"k{i}", p=0.5, model=sys.argv[2]))
            time.sleep(0.005)
"""


def test_two_processes_share_a_store_and_judge_nothing_twice(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("one", "two")]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    keys = [line["key"] for line in lines if line["type"] == "ruling"]
    assert sorted(keys) == sorted({f"k{i}" for i in range(50)})
    assert sum("another run is judging into" in text for text in told) == 1


def test_a_killed_process_leaves_no_lock_behind(tmp_path):
    hold = f"from aad_plugin.judges import Store; Store({str(tmp_path)!r}).__enter__(); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    started = time.monotonic()
    with Store(tmp_path):
        assert time.monotonic() - started < 30


@pytest.mark.parametrize("header", [{"format": 2, "id": "x"}, {"format": "2.0", "id": "x"}, {"format": 1}])
def test_a_store_that_cannot_be_read_leaves_no_lock(tmp_path, header):
    (tmp_path / "store.jsonl").write_text(json.dumps({"type": "store", **header}) + "\n")
    for _ in range(2):  # the second one met the first one's lock: "Deadlock"
        with pytest.raises(ConfigError, match="was written by a newer aad_plugin"):
            Store(tmp_path).__enter__()


def test_lines_without_key_or_kind_are_left_out(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("a", p=1.0))
    with (tmp_path / "store.jsonl").open("a") as file:
        file.write('{"type": "ruling", "p": 1.0}\n{"type": "note"}\n')
    with Store(tmp_path) as again:
        assert again.num_torn == 2 and len(again) == 1 and again.noted("x") == []


def test_a_disk_full_at_the_end_is_one_clear_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(JudgeError, match="Input/output error; 0 rulings are kept"), Store(tmp_path):
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="the first error"), Store(tmp_path):
        raise ValueError("the first error")


def test_a_store_in_use_can_be_looked_at(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("a", p=1.0))
        assert Store.peek(tmp_path).find("a").p == 1.0 and Store.peek(tmp_path).id == store.id
    assert len(Store.peek(tmp_path / "nothing")) == 0 and not (tmp_path / "nothing").exists()


def test_billed_failures_are_not_forgotten(tmp_path):
    with Store(tmp_path) as store:
        store.add(Ruling("k", reason="unreadable", prompt_tokens=5))
        store.add(Ruling("k", reason="transport"))
        store.add(Ruling("k", p=0.7, prompt_tokens=6))
        store.add(Ruling("k", reason="refusal", prompt_tokens=7))
    with Store(tmp_path) as again:
        assert [r.prompt_tokens for r in again.superseded("k")] == [5, 7] and again.find("k").prompt_tokens == 6
