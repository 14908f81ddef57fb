"""The cache of generated rows: of one generator only, whole or absent, whoever is killed and however many ask."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, Features, Value

from hf_effattn.data.checksums import content_checksum
from hf_effattn.lra import listops, pathfinder, pathfinder_tracing, recall
from hf_effattn.lra.checksums import verified
from hf_effattn.lra.generated import generated
from hf_effattn.lra.listops import Distribution


SHORT = Distribution(min_length=10, max_length=60, max_depth=5, max_args=4)
FEW = recall.Parameters(pairs=4, keys=8, values=5, length=24)
EASY = pathfinder.published(difficulty="easy")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(listops, "SHARD", 50)
    return tmp_path / "cache" / "hf_effattn"


def some_listops():
    return listops.generate_listops({"train": 40}, SHORT, num_proc=1)["train"]


def some_pictures():
    return pathfinder.generate_pathfinder({"train": 6}, EASY, num_proc=1)["train"]


def some_sequences():
    return recall.generate_recall({"train": 20}, FEW)["train"]


def some_tracing():
    return pathfinder_tracing.generate_tracing({"train": 20}, pathfinder_tracing.PARAMETERS, num_proc=1)["train"]


def never(*arguments, **named):
    raise RuntimeError("drawn anew")


GENERATORS = [
    (listops, some_listops, "write"),
    (pathfinder, some_pictures, "draw"),
    (pathfinder_tracing, some_tracing, "draw"),
    (recall, some_sequences, "draw"),
]
over_generators = pytest.mark.parametrize(
    ("module", "some", "drawing"), GENERATORS, ids=[module.__name__.split(".")[-1] for module, _, _ in GENERATORS]
)


#: Of the rows above, by the version of their generator. Where one of these changes, raise VERSION and add the new one.
ROWS = {
    ("listops", 1): "7ead4f132177fc211acede1ac89e09390b066a5b5b966cc2bbf57091ad55f988",
    ("listops", 2): "c54269156b4a77bf269ea618a8f5f7b1c850f881fd55055b400900ed806d2c31",
    ("pathfinder", 1): "5d16896a6818cd3b53c64175293b73100bcb0a44f6396fb058580ae0e4bfe164",
    ("pathfinder_tracing", 2): "cbd22c78368f60722d33ea7a4ff5c1ab8c6f05e1ee9d4b92b2869fbc68587a15",
    ("recall", 1): "76b1faecefe38501948c99a7a00b888778f3ba52e1fbb1d1afbf67ad7cc326ef",
}


@over_generators
def test_rows_do_not_change_unless_the_version_does(module, some, drawing):
    name = module.__name__.split(".")[-1]
    assert content_checksum(some()) == ROWS[name, module.VERSION]


@over_generators
def test_rows_are_drawn_once(module, some, drawing, monkeypatch):
    first = some()
    monkeypatch.setattr(module, drawing, never)
    assert some()[:] == first[:]


@over_generators
def test_another_version_never_gives_the_old_rows_and_leaves_them_alone(module, some, drawing, monkeypatch):
    old = some()[:]
    monkeypatch.setattr(module, drawing, never)
    with monkeypatch.context() as patch:
        patch.setattr(module, "VERSION", module.VERSION + 1)
        with pytest.raises(RuntimeError, match="drawn anew"):
            some()
    assert some()[:] == old


def squares(numbers, power):
    yield from ({"text": str(number**power)} for number in numbers)


FEATURES = Features({"text": Value("string")})


def some_squares(**changes):
    return generated("squares", 1, squares, {"numbers": [1, 2, 3], "power": 2} | changes, FEATURES)["text"][:]


def test_rows_of_other_content_are_read_anew(tmp_path):
    path = tmp_path / "rows"

    def read(source):
        yield {"text": Path(source).read_text()}

    def rows(content):
        return generated("read", 1, read, {"source": str(path)}, FEATURES, content=content)["text"][:]

    path.write_text("one")
    assert rows("a") == ["one"]
    path.write_text("two")
    assert rows("a") == ["one"] and rows("b") == ["two"]


def test_other_arguments_are_other_rows(cache):
    assert some_squares() == ["1", "4", "9"]
    assert some_squares(power=3) == ["1", "8", "27"]
    assert some_squares(numbers=[2]) == ["4"]
    assert len([folder for folder in cache.iterdir() if folder.is_dir()]) == 3


def test_a_generation_that_fails_leaves_nothing(cache):
    with pytest.raises(TypeError, match="unsupported operand"):
        some_squares(numbers=[1, 2, "three"])
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert some_squares() == ["1", "4", "9"]


def test_what_a_killed_process_left_is_cleared_away(cache):
    some_squares()
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    left, of_others = cache / f".{folder.name}-left", cache / ".cubes-v1-left"
    for place in (left, of_others):
        place.mkdir()
        (place / "rows.arrow").write_bytes(b"a part")
    assert some_squares() == ["1", "4", "9"]
    assert not left.exists() and of_others.exists()


@pytest.mark.parametrize("damage", ["cut", "garbled", "without rows", "without description", "garbled description"])
def test_damaged_rows_meet_a_clear_error_and_are_not_overwritten(cache, damage):
    some_squares()
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (rows,) = folder.glob("*.arrow")
    if damage == "cut":
        rows.write_bytes(rows.read_bytes()[:100])
    elif damage == "garbled":
        rows.write_bytes(b"garbled")
    elif damage == "garbled description":
        (folder / "state.json").write_text("{")
    else:
        (rows if damage == "without rows" else folder / "state.json").unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=rf"the rows in {folder} are damaged \(.*delete the folder, and run again"):
        some_squares()
    assert sorted(folder.iterdir()) == before
    shutil.rmtree(folder)
    assert some_squares() == ["1", "4", "9"]


def test_a_changed_byte_is_found_by_the_checksum(cache):
    rows = some_squares()
    splits = datasets.DatasetDict(train=generated("squares", 1, squares, {"numbers": [1, 2, 3], "power": 2}, FEATURES))
    checksum = content_checksum(splits["train"])
    assert verified(splits, {"train": checksum}) is splits and rows == ["1", "4", "9"]
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"149", b"148"))
    splits = datasets.DatasetDict(train=Dataset.load_from_disk(folder))
    with pytest.raises(ValueError, match=rf"train split has SHA-256 .* expected {checksum}.* and delete {folder}"):
        verified(splits, {"train": checksum})


@pytest.mark.parametrize("file", ["*.arrow", "state.json", "dataset_info.json", "checksums.json"])
def test_rows_that_have_changed_since_they_were_drawn_are_refused(cache, file):
    some_squares()
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (path,) = folder.glob(file)
    content = path.read_bytes()
    one, other = {"*.arrow": (b"149", b"148"), "checksums.json": (b': "', b': "0')}.get(file, (b"0", b"8"))
    assert one in content
    path.write_bytes(content.replace(one, other))
    with pytest.raises(
        ValueError, match=rf"the rows in {folder} are damaged \(.* has SHA-256 .*delete the folder, and"
    ):
        some_squares()
    path.write_bytes(content)
    assert some_squares() == ["1", "4", "9"]


def test_rows_of_an_earlier_version_are_taken_and_it_is_said(cache, caplog):
    some_squares()
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "checksums.json").unlink()
    assert some_squares() == ["1", "4", "9"]
    assert f"the rows in {folder} have no checksums.json, as an earlier version wrote them" in caplog.text


#: Draws slowly, and says so after the first rows.
SLOW = """
import sys, time
from pathlib import Path
from hf_effattn.lra import listops
from hf_effattn.data.checksums import content_checksum

begun, delay, processes = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
listops.SHARD = 50
plain = listops.write
drawn = 0

def slowly(rng, levels):
    global drawn
    drawn += 1
    if drawn > 3:
        begun.touch()
    time.sleep(delay)
    return plain(rng, levels)

listops.write = slowly
short = listops.Distribution(min_length=10, max_length=60, max_depth=5, max_args=4)
splits = listops.generate_listops({"train": 150, "test": 40}, short, num_proc=processes)
print(f"CHECKSUM {content_checksum(splits['train'])} {drawn}")
"""


def start(cache, begun, delay, processes):
    """A process with a session of its own that draws expressions."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(begun), str(delay), str(processes)],
        env=os.environ | {"HF_DATASETS_CACHE": str(cache.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def expressions(processes):
    return listops.generate_listops({"train": 150, "test": 40}, SHORT, num_proc=processes)["train"]


@pytest.fixture
def right(tmp_path, monkeypatch):
    """The checksum of the expressions, drawn elsewhere and undisturbed."""
    with monkeypatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "elsewhere")
        return content_checksum(expressions(1))


def living(session):
    """How many processes of a session have not ended."""
    count = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of_session, *_ = file.read_text().rpartition(")")[2].split()
            count += of_session == str(session) and state != "Z"
    return count


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_generation_is_never_taken_for_a_whole_one(cache, tmp_path, right, processes):
    killed = start(cache, tmp_path / "begun", 0.1, processes)
    try:
        wait_for((tmp_path / "begun").exists)
        assert list(cache.glob(f".listops-v{listops.VERSION}-*/unfinished/**/*.arrow")), "some of it is on the disk"
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        # Its workers, if it had any, are not killed with it.
        assert content_checksum(expressions(1)) == right
        (folder,) = (path for path in cache.iterdir() if path.is_dir() and not path.name.startswith("."))
        before = hashlib.sha256(next(folder.glob("*.arrow")).read_bytes()).digest()
        # What stays is the server of a queue between them, which writes nothing.
        wait_for(lambda: living(killed.pid) <= processes - 1)
        assert hashlib.sha256(next(folder.glob("*.arrow")).read_bytes()).digest() == before
        assert content_checksum(expressions(2)) == right
    finally:
        with suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)


def test_two_processes_at_once_end_with_the_right_rows_of_which_one_drew_them(cache, tmp_path, right):
    results = []
    for process in [start(cache, tmp_path / "begun", 0.01, 1) for _ in range(2)]:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        results.append(output.split("CHECKSUM ")[1].split())
    assert [checksum for checksum, _ in results] == [right, right]
    assert sorted(int(drawn) for _, drawn in results) == [0, 250]
    assert not list(cache.glob(".*"))
