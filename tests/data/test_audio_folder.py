"""Finding audio files by name without suffix."""

from safe_train.audio.folder import audio_files_by_stem


def test_earlier_folders_and_suffixes_count(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "a.mp3", first / "a.FLAC", second / "a.wav", second / "犬.ogg", second / "notes.txt"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (second / "below").mkdir()
    (second / "below" / "b.wav").touch()
    files = audio_files_by_stem([first, tmp_path / "nowhere", second])
    assert files == {"a": first / "a.FLAC", "犬": second / "犬.ogg"}
    assert audio_files_by_stem([second, first])["a"] == second / "a.wav"
