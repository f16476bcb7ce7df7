"""The report: its folder, resuming it, and its sentences when something is wrong."""

import builtins
import dataclasses
import errno
import json
import re
import shutil
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from backends import bench, registry
from backends.base import NonFiniteLatents
from backends.report import __main__ as program
from backends.report import plots, quality, run, sheet, tasks, video_file
from backends.report.folder import Folder, Refused
from backends.report.run import Report, Work
from backends.report.tasks import Length, Task
from qvg.metrics import psnr, ssim
from tests.fake_backend import SPEC as FAKE
from tests.fake_backend import FakeBackend

CPU = torch.device("cpu")
POCKET = registry.find("pocket")
PROMPT = 'a fox <script>alert("x")</script> & so on'
EXAMPLES = (Task(PROMPT, seed=3), Task("a lighthouse", "right-4, left-4"))


class Misbehaving(FakeBackend):
    """Runs into `error` in block `block` of a cache in BF16; notes for whom it made a video."""

    def __init__(self, error=None, block=0):
        super().__init__()
        self.error, self.block, self.opened = error, block, []

    def open(self, request, cache, tick):
        name = type(cache.codec).__name__
        self.opened.append(name)
        rollout = super().open(request, cache, tick)
        step = rollout.step
        if self.error is not None and name == "BF16Config":
            rollout.step = lambda: self._fail() if rollout._index == self.block else step()
        return rollout

    def _fail(self):
        raise self.error


def work(codecs=("BF16", "QVG INT2"), blocks=5, examples=EXAMPLES):
    # Four blocks of history are encoded two at a time.
    cases = {name: bench.parse_case(FAKE, name, "clusters=8") for name in codecs}
    return Work(FAKE, cases, examples, Length(blocks), CPU, "random")


def report(path, backend=None, fresh=False, said=None, draw=False, **changes):
    asked = work(**changes)
    folder = Folder(path, [task.folder(number) for number, task in enumerate(asked.tasks)])
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(plots, "draw", lambda *arguments: "")
            patch.setattr(sheet, "side_by_side", lambda sides, target, *settings: target.write_bytes(b"mp4"))
        # What is asked of git depends on what is edited meanwhile.
        about = {"card": "a card", "torch": torch.__version__, "commit": "1234567"}
        patch.setattr(run, "describe", lambda *arguments: about)
        folder.claim(run.settings(asked), fresh)
        say = (said if said is not None else []).append
        Report(asked, backend or FakeBackend(), folder, ["fake"], say).make()
    return read(path)


def read(path):
    return json.loads((path / "report.json").read_text(encoding="utf-8"))


def without_times(value):
    """What two runs have in common."""
    if isinstance(value, dict):
        left_out = {"ms", "first_block_ms", "frames_per_second", "started", "peak_process_bytes"}
        return {name: without_times(part) for name, part in value.items() if name not in left_out}
    return [without_times(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "made"
    report(path, draw=True)
    return path


def test_the_folder_holds_everything(made):
    first, second = "01-a-fox-script-alert-x-script-so-on", "02-a-lighthouse"
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    each = {"bf16.mp4", "bf16.json", "qvg-int2.mp4", "qvg-int2.json", "side-by-side.mp4", "contact-sheet.jpg"}
    drawn = {f"plots/{name}{theme}.svg" for name in ("kv-bytes", "psnr") for theme in ("", "-dark")}
    of_prompts = {f"{folder}/{name}" for folder in (first, second) for name in each}
    assert files == of_prompts | drawn | {"report.html", "report.json", "settings.json"}


def test_the_figures(made):
    found = read(made)
    assert found["complete"] is True
    assert [(row["task"], row["codec"]) for row in found["pairs"]] == [
        (0, "BF16"), (0, "QVG INT2"), (1, "BF16"), (1, "QVG INT2"),
    ]  # fmt: skip
    exact, coded = found["pairs"][:2]
    assert exact["quality"] is None
    assert exact["frames"] == coded["frames"] == FAKE.video_frames(5)
    assert exact["kv_bytes"] == exact["bf16_bytes"] == coded["bf16_bytes"]
    assert coded["kv_bytes"][-1] < exact["kv_bytes"][-1]
    assert coded["frames_by_block"] == [FAKE.video_frames(blocks) for blocks in range(1, 6)]
    assert coded["ratio"] == pytest.approx(coded["bf16_bytes"][-1] / coded["kv_bytes"][-1], abs=1e-3)
    assert coded["peak_process_bytes"] > 0
    assert coded["peak_device_bytes"] is None
    assert min(coded["ms"][name] for name in ("block", "read", "encode")) >= 0
    # Two blocks are one history for both; the third is the first to read what was encoded.
    assert coded["quality"]["identical_frames"] >= FAKE.video_frames(2)
    assert coded["quality"]["windows"]["first chunk"]["psnr"] == "equal"
    assert coded["quality"]["windows"]["all"]["frames"] == FAKE.video_frames(5)
    assert found["made"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert found["made"]["command"] == "python -m backends.report fake"
    for row in found["codecs"]:
        assert row["pairs"] == 2
        assert row["fits"] is True


def test_the_videos_say_how_they_were_made(made):
    row = read(made)["pairs"][3]
    with av.open(str(made / row["video"])) as container:
        kept = json.loads(container.metadata["comment"])
        assert container.streams.video[0].codec_context.colorspace == 1
        assert sum(1 for _ in container.decode(video=0)) == row["frames"]
    assert (kept["codec"], kept["task"], kept["tasks"][1]["prompt"]) == ("QVG INT2", 1, "a lighthouse")


def test_the_page_escapes_and_asks_nobody(made):
    html = (made / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "a fox &lt;script&gt;" in html
    addresses = re.findall(r'(?:src|href|srcset)="([^"]*)"', html)
    beside = [address for address in addresses if not address.startswith("data:image/svg+xml;base64,")]
    assert beside
    for address in beside:
        assert (made / address.partition("#")[0]).is_file(), address
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_report_goes_on_with_what_is_missing(made, tmp_path, monkeypatch, after):
    made_so_far, make = [], run.make

    def interrupted(*arguments):
        if len(made_so_far) == after:
            raise KeyboardInterrupt
        made_so_far.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(run, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*.mp4")}
    # What a run that was killed leaves behind.
    (tmp_path / "02-a-lighthouse" / "qvg-int2.mp4.part").write_bytes(b"half")
    monkeypatch.setattr(run, "make", make)
    backend = Misbehaving()
    assert without_times(report(tmp_path, backend)) == without_times(read(made))
    assert len(backend.opened) == 4 - after
    assert {file: file.stat().st_mtime_ns for file in kept if "side" not in file.name}.items() <= kept.items()
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.frames"))
    again = Misbehaving()
    report(tmp_path, again)
    assert again.opened == []


def test_a_video_that_was_deleted_is_made_again(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "02-a-lighthouse" / "qvg-int2.mp4").unlink()
    (tmp_path / "01-a-fox-script-alert-x-script-so-on" / "qvg-int2.json").write_text("{")
    backend = Misbehaving()
    assert without_times(report(tmp_path, backend)) == without_times(read(made))
    assert backend.opened == ["BF16Config", "PRQConfig"] * 2  # BF16's frames were needed again


def test_what_differs_is_refused_and_said(tmp_path):
    report(tmp_path, codecs=("BF16",), blocks=2, examples=EXAMPLES[1:])
    with pytest.raises(Refused, match=r"other settings \(blocks\): .*--out.*--fresh"):
        report(tmp_path, codecs=("BF16",), blocks=3, examples=EXAMPLES[1:])
    (tmp_path / "notes.txt").write_text("mine")
    found = report(tmp_path, codecs=("BF16",), blocks=3, fresh=True, examples=EXAMPLES[1:], draw=True)
    assert found["settings"]["blocks"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "01-a-lighthouse", "notes.txt", "plots", "report.html", "report.json", "settings.json",
    ]  # fmt: skip


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path, fresh):
    (tmp_path / "settings.json").write_text('{"kind": "mine"}')
    with pytest.raises(Refused, match="holds no report"):
        report(tmp_path, fresh=fresh)
    assert (tmp_path / "settings.json").read_text() == '{"kind": "mine"}'


@pytest.mark.parametrize("name", ["..", "../beside", "/", "mine", "."])
def test_fresh_deletes_only_what_a_report_wrote(tmp_path, name):
    beside, path = tmp_path / "beside", tmp_path / "report"
    beside.mkdir()
    (path / "mine").mkdir(parents=True)
    (path / "settings.json").write_text(json.dumps({"kind": "qvg-studio report", "folders": [name]}))
    Folder(path, ["01"]).claim({"kind": "qvg-studio report"}, fresh=True)
    assert beside.is_dir()
    assert (path / "mine").is_dir()


def test_a_codec_that_does_not_fit_is_a_row_and_the_others_go_on(tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    found = report(tmp_path, Misbehaving(error, block=3), examples=EXAMPLES[:1])
    exact, coded = found["pairs"]
    assert (exact["state"], exact["blocks"]) == ("did not fit", 3)
    assert "Out of memory in block 4 of 5" in exact["said"]
    assert coded["state"] == "whole"
    # What BF16 made is there to compare with.
    assert len(coded["quality"]["mse"]) == FAKE.video_frames(3)
    assert [row["fits"] for row in found["codecs"]] == [False, True]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "BF16 did not fit. Out of memory in block 4 of 5" in html


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory"), NonFiniteLatents()])
def test_a_codec_that_makes_nothing_is_a_row_too(tmp_path, error):
    found = report(tmp_path, Misbehaving(error), examples=EXAMPLES[:1], blocks=2)
    exact, coded = found["pairs"]
    assert exact["state"] == ("failed" if isinstance(error, NonFiniteLatents) else "did not fit")
    assert exact["said"]
    assert exact["video"] is None
    assert (coded["state"], coded["quality"]) == ("whole", None)


def test_videos_too_short_for_a_codec_are_said_to_be(tmp_path):
    said = []
    found = report(tmp_path, blocks=1, examples=EXAMPLES[:1], said=said)
    assert "QVG INT2 encodes nothing in 1 blocks" in found["notes"][0]
    assert found["notes"][0] in said


def test_what_a_cpu_cannot_hold_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(run.hardware, "ram_bytes", lambda: 1)
    backend = Misbehaving()
    found = report(tmp_path, backend, examples=EXAMPLES[:1])
    assert backend.opened == []
    assert {row["state"] for row in found["pairs"]} == {"did not fit"}


def test_windows_are_of_the_frames_they_name():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 200, (60, 16, 20, 3), dtype=np.uint8)
    frames = reference.copy()
    frames[14:] += rng.integers(1, 50, frames[14:].shape, dtype=np.uint8)
    found = quality.compare(frames[:50], reference, [9, 21, 33, 45, 50], 16, None)
    assert found["identical_frames"] == 14
    for name, start, end in [
        ("first changed chunk", 9, 21),
        ("0–2 s", 0, 32),
        ("2–5 s", 32, 50),
        ("all", 0, 50),
    ]:
        window = found["windows"][name]
        assert window["frames"] == end - start
        assert window["psnr"] == pytest.approx(psnr(frames[start:end], reference[start:end]), abs=0.01)
        exact = np.mean([ssim(a, b) for a, b in zip(frames[start:end], reference[start:end], strict=True)])
        assert window["ssim"] == pytest.approx(exact, abs=1e-3)
    assert found["windows"]["first chunk"] == {"frames": 9, "psnr": "equal", "ssim": 1.0, "lpips": None}


def test_windows_that_a_video_does_not_reach_are_empty():
    frames = np.zeros((20, 16, 16, 3), np.uint8)
    found = quality.compare(frames, frames, [9, 20], 16, None)["windows"]
    assert found["2–5 s"] is None
    assert found["first changed chunk"] is None
    assert found["0–2 s"]["frames"] == 20


def test_lpips_is_measured_where_it_is_installed(tmp_path, monkeypatch):
    class Network(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()

        def forward(self, a, b):
            assert a.shape[1] == 3 and a.min() >= -1 and a.max() <= 1
            return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Network))
    found = report(tmp_path, examples=EXAMPLES[:1])
    assert found["lpips"] is None
    window = found["codecs"][1]["quality"]["all"]
    assert 0 < window["lpips"] < 2
    assert "LPIPS: 0 is equal" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = report(tmp_path, examples=EXAMPLES[:1], blocks=2, draw=True)
    assert found["lpips"] == quality.NO_LPIPS
    assert found["plots"] == plots.NO_PLOTS
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert quality.NO_LPIPS in html and plots.NO_PLOTS in html


def prompts(path, text, spec=POCKET, seeds=(0,), blocks=4):
    file = path / "prompts.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tasks.read(file, spec, Length(blocks), seeds)


def test_a_prompts_file(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    text = (
        "\ufeff# mine\r\n\r\na red box\r\na blue | box | w-3, right-2\r\n"
        '{"prompt": "a cone", "path": "left-2", "picture": "red.png", "seed": 7}\n'
        '{"prompt": "{odd}"}\n a red box \n'
    )
    found = prompts(tmp_path, text, seeds=(1, 2))
    turn = "right-8, left-8"  # four blocks of four latents
    assert found == (
        Task("a red box", turn, None, 1), Task("a red box", turn, None, 2),
        Task("a blue | box", "w-3, right-2", None, 1), Task("a blue | box", "w-3, right-2", None, 2),
        Task("a cone", "left-2", tmp_path / "red.png", 7),
        Task("{odd}", turn, None, 1), Task("{odd}", turn, None, 2),
    )  # fmt: skip
    asked = tasks.request(found[4], POCKET, Length(4))
    assert asked.image.shape == (48, 64, 3)
    assert asked.moves[0].keys == ("left",)
    assert found[4].described()["picture"]["name"] == "red.png"
    assert found[4].folder(4) == "05-a-cone"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no prompt"),
        ("# a comment\n\n  \n", "holds no prompt"),
        (b"\xff\xfea\x00", "not UTF-8"),
        ("a box | w-x", "line 1: Camera path, move 1"),
        ("a box\n" + "x" * 2001, "line 2: The prompt has 2,001"),
        ('{"prompt": "a box"', "line 1: this is not JSON"),
        ("{" * 100_000, "line 1: this is not JSON"),
        ('{"promt": "a box"}', "there is no 'promt'"),
        ('{"prompt": 3}', "'prompt' is text, not 3"),
        ('{"prompt": "a", "seed": "1"}', "'seed' is a whole number"),
        ('{"prompt": "a", "seed": true}', "'seed' is a whole number"),
        ('{"prompt": "a", "seed": -1}', "A seed lies between"),
        ('{"prompt": " "}', "neither a prompt nor a picture"),
        ('{"picture": "none.png"}', "there is no picture"),
        ('{"picture": "prompts.txt"}', "not a picture"),
    ],
)
def test_a_prompts_file_that_cannot_be_used(tmp_path, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        prompts(tmp_path, text)


def test_a_camera_path_for_a_generator_without_a_camera(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: Self-Forcing has no camera"):
        prompts(tmp_path, "a fox | w-4", registry.find("self_forcing"))
    assert prompts(tmp_path, "a fox", registry.find("self_forcing"))[0].path == ""


@pytest.mark.parametrize("name", registry.IDS)
def test_every_generator_has_prompts_of_its_own(name):
    spec = registry.find(name)
    found = tasks.usual(spec, 4, (0, 1))
    assert len(found) == 2 * len(spec.examples) > 0
    for task in found:
        tasks.request(task, spec, Length(4))


def sentence(capsys, *arguments, status=2):
    assert program.main([str(argument) for argument in arguments]) == status
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said.endswith(".") and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "There is no generator 'nothing': choose one of pocket, "),
        (["pocket", "--codecs", "QVG INT3"], "There is no codec 'QVG INT3': choose BF16, "),
        (["pocket", "--prompts", "no/such/file"], "no/such/file cannot be read: No such file"),
        (["pocket", "--prompts", "."], "cannot be read: Is a directory"),
        (["pocket", "--blocks", "9999"], "makes 1 to 120 blocks"),
        (["pocket", "--seed", "-1"], "A seed lies between"),
        (["pocket", "--policy", "each=2"], "'each=2' is not one of every="),
        (["pocket", "--mode", "fast"], "has no mode 'fast'"),
        (["pocket", "--option", "distilled"], "--option is NAME=VALUE"),
        (["pocket", "--option", "distilled=yes"], "has no setting 'distilled'"),
        (["pocket", "--tiny"], "add --random-weights"),
        (["self-forcing"], "Self-Forcing cannot run here. "),
        (["pocket", "--device", "cuda"], "finds no GPU"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(capsys, tmp_path, monkeypatch, arguments, words):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    out = tmp_path / "out"
    assert words in sentence(capsys, *arguments, "--out", out)
    assert not out.exists()


TINY = ("self-forcing", "--random-weights", "--tiny", "--threads", "1", "--device", "cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fake_model(monkeypatch, threads):
    """The program's own way, with a generator that takes no time."""
    monkeypatch.setattr(bench, "load", lambda *arguments: FakeBackend())


def test_a_folder_that_cannot_be_made(capsys, tmp_path, fake_model):
    (tmp_path / "file").write_text("")
    assert "could not be written" in sentence(capsys, *TINY, "--out", tmp_path / "file" / "out")


def test_a_full_disk_keeps_what_is_finished(capsys, tmp_path, monkeypatch, fake_model):
    write, written = video_file.write, []

    def full(path, frames, *arguments):
        if len(written) == 1:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write(path, frames, *arguments)

    monkeypatch.setattr(video_file, "write", full)
    arguments = (*TINY, "--codecs", "kivi-int2", "--blocks", "2", "--out", tmp_path)
    said = sentence(capsys, *arguments)
    assert "No space left on device" in said and "goes on from there" in said
    assert [file.name for file in tmp_path.glob("*/*.json")] == ["bf16.json"]
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(video_file, "write", write)
    assert program.main([str(argument) for argument in arguments]) == 0
    assert read(tmp_path)["complete"]


def test_ctrl_c_is_a_sentence(capsys, tmp_path, monkeypatch, fake_model):
    def pressed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "make", pressed)
    assert "Stopped." in sentence(capsys, *TINY, "--out", tmp_path, status=130)


def test_help_and_mistakes_do_not_load_torch(monkeypatch):
    loaded, real = [], builtins.__import__

    def watched(name, *arguments):
        loaded.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert program.main(["pocket", "--codecs", "none"]) == 2
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert not {"torch", "backends.bench", "backends.report.run"} & set(loaded)


@pytest.mark.parametrize(
    "arguments",
    [
        ("self-forcing", "--random-weights", "--tiny", "--policy", "every=1,clusters=8"),
        ("worldplay", "--random-weights", "--tiny", "--mode", "incremental", "--policy", "every=1"),
        ("longcat", "--random-weights", "--tiny"),
        ("pocket", "--random-weights", "--tiny", "--policy", "every=1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_report_of_every_generator(capsys, tmp_path, threads, arguments):
    file, out = tmp_path / "prompts.txt", tmp_path / "out"
    file.write_text("a red box\n")
    chosen = ("--prompts", file, "--codecs", "QVG INT2", "--blocks", "2", "--out", out)
    assert program.main([*map(str, (*arguments, *chosen)), "--threads", "1", "--device", "cpu"]) == 0
    exact, coded = read(out)["pairs"]
    assert exact["frames"] == coded["frames"] > 0
    first = coded["frames_by_block"][0]
    # The same noise, and no history yet.
    assert coded["quality"]["identical_frames"] >= first
    if arguments[0] != "pocket":  # its last layer begins as zeros
        assert coded["quality"]["identical_frames"] < coded["frames"]
    assert coded["kv_bytes"][-1] < exact["kv_bytes"][-1]
    assert {"block", "denoise", "read", "encode", "decode"} <= set(coded["ms"]) | {"denoise", "decode"}
    assert (out / coded["video"]).is_file()
    spec = dataclasses.asdict(registry.find(arguments[0].replace("-", "_")))
    assert read(out)["settings"]["backend"] == spec["id"]
