"""The audio data of the experiment on pretrained weights, built from small folders in the layout of the packages."""

import csv
import gzip
import shutil
from collections import defaultdict

import numpy as np
import pytest
import soundfile

from experiments.real.data import asterisk, ktuberling, sonic_pi, tuxpaint
from experiments.real.data.audio import PACKAGES, build_audio, read_recordings, select_rows
from experiments.real.data.clips import Clip, Word, find_near_duplicates, measure
from experiments.real.data.layouts import summarize
from experiments.real.data.selection import Row, assign_splits, drop_repeats, require_disjoint
from experiments.real.packages import PACKAGES as pinned
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.avqa import AVQA
from safe_train.data.datasets.wavcaps import WavCaps
from safe_train.data.validation.check import check_root
from safe_train.errors import InputError

STAMPS = tuxpaint.PACKAGE + "/usr/share/tuxpaint/stamps"
NUM_STAMPS = 24
SAMPLES = (
    "bd_one", "bd_two", "bd_three", "bd_four", "drum_tom_hi_hard", "drum_tom_hi_soft", "tabla_te1", "tabla_te_m",
    "tabla_na", "guit_slide",
)  # fmt: skip


class Packages:
    """A folder of packages to write into; every recording is noise of its own."""

    def __init__(self, root, seed=0):
        self.root = root
        self.noise = np.random.default_rng(seed)

    def __call__(self, package):
        return self.root / package

    def samples(self, seconds=0.3, rate=8000):
        return (self.noise.standard_normal(round(seconds * rate)) * 3000).astype(np.int16)

    def record(self, name, samples=None, rate=8000):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = self.samples(rate=rate) if samples is None else samples
        if path.suffix == ".gsm":
            soundfile.write(path, samples, rate, format="RAW", subtype="GSM610")
        else:
            soundfile.write(path, samples, rate)
        return path

    def copy(self, name, other):
        content = (self.root / name).read_bytes()
        (self.root / other).parent.mkdir(parents=True, exist_ok=True)
        (self.root / other).write_bytes(content)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_asterisk(packages):
    prompts = {
        "goodbye": "Goodbye.",
        "vm-goodbye": "Goodbye!",
        "beep": "[a beep]",
        "at": "at [@] home",
        "long": "a b c d e f g",
    }
    for voice in asterisk.VOICES:
        folder = f"{voice.package}/usr/share/asterisk/sounds/{voice.folder}"
        suffix = ".gsm" if voice.package in ("asterisk-prompt-es-co", "asterisk-prompt-fr-armelle") else ".wav"
        for prompt in (
            *prompts,
            "digits/7",
            "digits/h-12",
            "digits/h-21",
            "digits/day-0",
            "digits/mon-11",
            "letters/b",
            "silence/1",
        ):
            packages.record(f"{folder}/{prompt}{suffix}")
        for number in range(12):
            packages.record(f"{folder}/prompt-{number}{suffix}")
        if voice.transcripts:
            package, code = voice.transcripts
            path = packages(package) / f"usr/share/doc/{package}/core-sounds-{code}.txt.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = ["\ufeff; Core sounds", "", *(f"{prompt}: {text}" for prompt, text in prompts.items())]
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.write("\n".join(lines))


def write_tuxpaint(packages):
    folders = {"animals/birds": "bird", "animals/mammals/dogs": "dog", "household": "thing"}
    for folder, noun in folders.items():
        for number in range(NUM_STAMPS // 3):
            stamp = f"{STAMPS}/{folder}/{noun}{number}"
            packages.write(f"{stamp}.txt", f"A {noun} of kind {number}.\nfr.utf8=Un {noun}.\n")
            packages.record(f"{stamp}.ogg", rate=22254)
            for code in tuxpaint.LANGUAGES:
                packages.record(f"{stamp}_desc{'_' if code else ''}{code}.ogg", rate=44100)
    packages.record(f"{STAMPS}/animals/birds/bird0_desc_nl.ogg")
    packages.record(f"{STAMPS}/animals/birds/silent.ogg", np.zeros(8000, np.int16))
    packages.record(f"{STAMPS}/animals/birds/long.ogg", packages.samples(5.5))
    packages.record(f"{STAMPS}/animals/birds/short.ogg", packages.samples(0.05))
    packages.record(f"{STAMPS}/vehicles/emergency/firetruck.ogg")
    for name in ("3", "3_fr", "3_en_GB", "3_zh_tw", "plus_fr"):
        packages.record(f"{STAMPS}/symbols/math/{name}.ogg")
    packages.record(f"{STAMPS}/symbols/alphabets/english/filled/lowercase/q_filled_en_GB.ogg")
    packages.record(f"{STAMPS}/symbols/math/3_desc_fr.ogg")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """All packages; tests read them only."""
    made = Packages(tmp_path_factory.mktemp("packages"))
    write_asterisk(made)
    write_tuxpaint(made)
    for name in SAMPLES:
        made.record(f"{sonic_pi.PACKAGE}/usr/share/sonic-pi/samples/{name}.flac", rate=44100)
    for code, suffix in (("da", "ogg"), ("it", "wav"), ("sv", "wav")):
        made.record(f"{ktuberling.PACKAGE}/usr/share/ktuberling/sounds/{code}/hat.{suffix}", rate=22050)
    return made


@pytest.fixture(scope="module")
def built(originals, tmp_path_factory):
    """The data root of them."""
    root = tmp_path_factory.mktemp("data") / "root"
    build_audio(root, originals)
    return root


@pytest.fixture
def packages(originals, tmp_path):
    """A copy to add to."""
    shutil.copytree(originals.root, tmp_path / "packages")
    return Packages(tmp_path / "packages", seed=1)


def table(root):
    with (root / "avqa/clips.csv").open(encoding="utf-8", newline="") as file:
        return {line["video_id"]: line for line in csv.DictReader(file)}


def test_answers(built):
    """By hand from the names of the files."""
    rows = table(built)
    answers = {
        "asterisk-june-digits-7": ("Word", "train", "seven"),
        "asterisk-carlo-digits-h-12": ("Word", "train", "twelfth"),
        "asterisk-ivrvoiceru-letters-b": ("Word", "train", "B"),
        "asterisk-armelle-digits-day-0": ("Word", "val", "Sunday"),
        "asterisk-july-digits-mon-11": ("Word", "val", "December"),
        "asterisk-menardi-digits-7": ("Word", "tune", "seven"),
        "tuxpaint-symbols-math-3-en": ("Word", "train", "three"),
        "tuxpaint-symbols-math-3-fr": ("Word", "train", "three"),
        "tuxpaint-symbols-math-3-en_GB": ("Language", "speaker", "English"),
        "tuxpaint-symbols-alphabets-q-en_GB": ("Language", "speaker", "English"),
        "asterisk-armelle-goodbye": ("Language", "speaker", "French"),
        "ktuberling-da-hat": ("Language", "speaker", "Danish"),
        "ktuberling-it-hat": ("Language", "speaker", "Italian"),
    }
    assert {name: (rows[name]["kind"], rows[name]["split"], rows[name]["answer"]) for name in answers} == answers
    assert rows["tuxpaint-animals-mammals-dogs-dog1-sound"]["answer"] == "mammal"
    assert rows["sonic-pi-bd_one"]["answer"] == "kick drum"
    spoken = {line["answer"] for line in rows.values() if line["kind"] == "Language" and line["split"] == "train"}
    assert spoken == {*tuxpaint.LANGUAGES.values(), "Italian"}


def test_what_is_left_out(built):
    rows = table(built)
    assert not [
        name for name in rows if name.endswith(("silent-sound", "long-sound", "short-sound", "firetruck-sound"))
    ]
    assert not [
        name for name in rows if "beep" in name or "silence" in name or name.endswith(("-nl", "zh_tw", "-sv-hat"))
    ]
    assert not [name for name in rows if name.startswith("tuxpaint-symbols") and rows[name]["answer"] == "French"]


def test_official_readers_read_it(built):
    for split, listed in (("train", ["train"]), ("val", ["val", "speaker"]), ("tune", ["tune"])):
        examples = AVQA().examples(built, split)
        assert len(examples) == sum(line["split"] in listed for line in table(built).values()) > 0
    new = {each.answers for each in AVQA().examples(built, "val") if each.kind == "Audio Language, new speaker"}
    assert {("French",), ("Danish",), ("English",)} <= new
    words = [each for each in AVQA().examples(built, "val") if each.kind == "Audio Word"]
    assert {(each.question, each.answers) for each in words} >= {
        ("Which number is said?", ("seven",)),
        ("Which day of the week is said?", ("Sunday",)),
        ("Which month is said?", ("December",)),
        ("Which letter is said?", ("B",)),
    }
    captions = {r.clip_id: r.captions for split in ("train", "val", "tune") for r in AudioCaps().records(built, split)}
    assert captions["asterisk-allison-en-goodbye_0"] == ("Goodbye.",)
    assert captions["asterisk-allison-en-at_0"] == ("at home",)
    assert captions["tuxpaint-household-thing3-sound_0"] == ("A thing of kind 3.",)
    assert "asterisk-allison-en-long_0" not in captions
    present = [split for split in ("train", "val", "tune") if WavCaps().has_split(built, split)]
    samples = {record.clip_id: record.captions for split in present for record in WavCaps().records(built, split)}
    samples = {name.removeprefix("FreeSound/"): captions for name, captions in samples.items()}
    assert samples["sonic-pi-bd_one"] == ("bass drum, one",)
    assert samples["sonic-pi-guit_slide"] == ("guitar, slide",)


def test_frames_without_a_header_become_wav_with_the_same_samples(originals, built):
    source = originals("asterisk-prompt-es-co/usr/share/asterisk/sounds/es/digits/7.gsm")
    expected, _ = soundfile.read(source, dtype="int16", format="RAW", subtype="GSM610", samplerate=8000, channels=1)
    samples, rate = soundfile.read(built / "avqa/audio/asterisk-july-digits-7.wav", dtype="int16")
    assert rate == 8000
    np.testing.assert_array_equal(samples, expected)


def test_the_check_finds_nothing(built):
    reports = [report for split in ("train", "val", "tune") for report in check_root(built, splits=[split])]
    assert len(reports) >= 8
    assert [(report.name, report.split, report.defects) for report in reports if report.defects] == []


def test_captions_of_one_picture_lie_in_one_split(built):
    splits = defaultdict(set)
    for name, line in table(built).items():
        if line["package"] == tuxpaint.PACKAGE and "symbols" not in name:
            splits[name.rpartition("-")[0]].add(line["split"])
    assert len(splits) == NUM_STAMPS
    assert all(len(found) == 1 for found in splits.values())
    assert {next(iter(found)) for found in splits.values()} == {"train", "val", "tune"}


def test_equal_words_said_twice_lie_in_one_split(originals):
    """ "Goodbye." and "Goodbye!" are the same, in every language."""
    questions, captions, _ = select_rows(read_recordings(originals))
    trained = [row for row in (*questions, *captions) if not row.recording.clip.split]
    said = [row for row in trained if row.recording.clip.name.endswith("goodbye")]
    assert {row.recording.clip.name for row in said} >= {"asterisk-june-goodbye", "asterisk-june-vm-goodbye"}
    assert len({row.group for row in said}) == 1


def decoys(packages):
    """Copies of a caption under other stamps, of which one is in another format, and a louder copy."""
    packages.copy(f"{STAMPS}/household/thing1_desc_fr.ogg", f"{STAMPS}/plants/copy_desc_fr.ogg")
    samples, rate = soundfile.read(packages(f"{STAMPS}/household/thing2_desc_fr.ogg"), dtype="int16")
    packages.record(f"{STAMPS}/plants/louder_desc_fr.ogg", (samples * 2).astype(np.int16), rate)


def test_equal_samples_are_used_once_and_bind_their_pictures(packages, tmp_path):
    decoys(packages)
    build_audio(tmp_path / "root", packages)
    rows = table(tmp_path / "root")
    assert ("tuxpaint-plants-copy-fr" in rows) + ("tuxpaint-household-thing1-fr" in rows) == 1
    louder, quiet = rows["tuxpaint-plants-louder-fr"], rows["tuxpaint-household-thing2-fr"]
    assert (louder["group"], louder["split"]) == (quiet["group"], quiet["split"])
    assert rows["tuxpaint-household-thing1-ru"]["group"] != louder["group"]


def test_near_duplicates(packages):
    noise = packages.samples()
    paths = [
        packages.record(f"x/{n}.wav", s) for n, s in enumerate((noise, -noise // 2, packages.samples(), noise[:-1]))
    ]
    made = [measure(Clip(str(n), path, "x", (str(n),))) for n, path in enumerate(paths)]
    assert [(one.clip.name, other.clip.name) for one, other in find_near_duplicates(made)] == [("0", "1")]


def test_takes_of_one_sound_lie_in_one_split(built):
    rows = table(built)
    for one, other in (("drum_tom_hi_hard", "drum_tom_hi_soft"), ("tabla_te1", "tabla_te_m")):
        assert rows[f"sonic-pi-{one}"]["split"] == rows[f"sonic-pi-{other}"]["split"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, "content "),
        ({"split": "val", "sha256": "b", "group": "g"}, "group g: expected one split, got "),
        ({"split": "val", "sha256": "b", "group": "h", "kind": "Word"}, "speaker of words s: expected one split, got "),
        ({"split": "speaker", "sha256": "b", "group": "h"}, "speaker s: expected one split, got "),
    ],
)
def test_what_is_in_two_splits_is_refused(packages, change, message):
    path = packages.record("x/a.wav")
    recording = measure(Clip("a", path, "x", ("k",), speaker="s", word=Word("?", "A"), split="train"))
    kind = change.get("kind", "Language")
    rows = [Row(recording, "g", "train", kind, "?", "A")]
    require_disjoint(rows * 2)
    other = recording if "sha256" not in change else type(recording)(recording.clip, 1, 1, 1, 1.0, change["sha256"])
    with pytest.raises(InputError) as caught:
        require_disjoint([*rows, Row(other, change.get("group", "g"), change["split"], kind, "?", "A")])
    assert message in str(caught.value)


def test_the_same_again(originals, built, tmp_path):
    build_audio(tmp_path, originals)
    files = sorted(path.relative_to(built) for path in built.rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert [name for name in files if (built / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_another_clip_moves_no_picture_to_another_split(packages):
    made = read_recordings(packages)
    before = {row.recording.clip.name: row.split for row in select_rows(made)[0]}
    packages.record(f"{STAMPS}/plants/new_desc_fr.ogg", rate=44100)
    after = {row.recording.clip.name: row.split for row in select_rows(read_recordings(packages))[0]}
    assert {name: after[name] for name in before} == before


def rows_of(packages, answers):
    """Rows of (split, answer, sampling rate)."""
    made = []
    for number, (split, answer, rate) in enumerate(answers):
        path = packages.record(f"usr/{number}.wav", rate=rate)
        recording = measure(Clip(str(number), path, "x", (str(number),)))
        made.append(Row(recording, str(number), split, "Sound", "What?", answer))
    return made


def test_guesses(packages):
    """By hand: always "a", the more frequent in ``train``; with the format, "b" at 8,000 Hz and "a" at 16,000 Hz."""
    trained = [("train", "a", 16000)] * 3 + [("train", "b", 8000)] * 2
    asked = [("val", "a", 16000), ("val", "b", 8000), ("val", "b", 8000), ("val", "a", 22050), ("val", "c", 8000)]
    val = summarize(rows_of(packages, trained + asked))["Sound"]["val"]
    assert (val["clips"], val["majority"], val["format"], val["largest"]) == (5, 0.4, 0.8, 0.4)
    assert val["answers"] == {"a": 2, "b": 2, "c": 1}


def test_a_root_that_has_a_set_is_refused(packages, tmp_path):
    (tmp_path / "wavcaps").mkdir()
    with pytest.raises(InputError, match="a data root without avqa, audiocaps, wavcaps, got wavcaps"):
        build_audio(tmp_path, packages)


def test_missing_transcripts_and_damaged_audio_are_refused(packages):
    path = packages(f"{STAMPS}/household/thing1.ogg")
    path.write_bytes(b"OggS nothing")
    with pytest.raises(InputError, match=r"thing1.ogg: expected audio that libsndfile decodes"):
        read_recordings(packages)
    package, code = asterisk.VOICES[0].transcripts
    (packages(package) / f"usr/share/doc/{package}/core-sounds-{code}.txt.gz").unlink()
    with pytest.raises(InputError, match="expected the transcripts of the prompts, got no such file"):
        read_recordings(packages)


def test_the_packages_are_pinned_and_their_files_told(built):
    assert {name for name in PACKAGES if pinned[name].part != "data"} == set()
    lines = table(built).values()
    assert {line["package"] for line in lines} <= set(PACKAGES)
    files = {line["video_id"]: line["file"] for line in lines}
    assert files["asterisk-july-digits-7"] == "usr/share/asterisk/sounds/es/digits/7.gsm"


def test_splits_have_every_kind_of_sound(originals):
    kept = drop_repeats(read_recordings(originals))
    splits = assign_splits(kept, {each.clip.name: each.clip.name for each in kept})
    found = defaultdict(set)
    for each in kept:
        if each.clip.category:
            found[each.clip.category].add(splits[each.clip.name])
    assert {kind for kind, where in found.items() if len(where) == 3} >= {
        "bird",
        "mammal",
        "household object",
        "kick drum",
    }
