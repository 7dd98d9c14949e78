"""Finding audio files by name without suffix."""

from safe_train.audio.folder import index_audio_files


def test_earlier_folders_and_suffixes_count(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "a.mp3", first / "a.FLAC", second / "a.wav", second / "犬.ogg", second / "notes.txt"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (second / "below").mkdir()
    (second / "below" / "b.wav").touch()
    files = index_audio_files([first, tmp_path / "nowhere", second])
    assert files == {"a": first / "a.FLAC", "犬": second / "犬.ogg"}
    assert index_audio_files([second, first])["a"] == second / "a.wav"
