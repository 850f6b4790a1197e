"""The contract of a source by itself: what it lists, fetches and hints, without a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from connectors.certification.checks import Checks
from connectors.certification.place import Renames
from connectors.certification.trial import Trial, listing
from pipeline.identity import content_hash
from pipeline.ports import without_pauses

CHECKS: Final = Checks()

PATHS: Final = ("a.txt", "sub/b.md", "sub/deeper/ünïcödé 漢字 🌊.txt", "with space/c%d:e.txt")
#: What no source may take for a document: names of nothing, ways out of the place, what no name can be.
_NOWHERE: Final = ("absent", "sub/absent", "", ".", "..", "../root/a.txt", "/etc/passwd", "a\0b", "a//b")
_CLOCK_SECONDS: Final = 60.0


@CHECKS.add
def a_scan_lists_every_document_once(trial: Trial) -> None:
    """A scan lists every document, and each of them once."""
    paths = trial.put_any(PATHS)
    listed = [one.path for one in without_pauses(trial.source().scan())]
    assert sorted(listed) == sorted(paths), f"listed were {listed}, there are {paths}"


@CHECKS.add
def an_empty_place_lists_nothing(trial: Trial) -> None:
    """A place without documents is an empty list, and no error."""
    listed = [one.path for one in without_pauses(trial.source().scan())]
    assert listed == [], f"listed were {listed}"


@CHECKS.add
def a_revision_changes_when_the_document_does(trial: Trial) -> None:
    """What did not change keeps its revision; what did has another."""
    source = trial.source()
    trial.put("still", "one")
    trial.put("edited", "one")
    before = listing(source)
    trial.put("edited", "two")
    after = listing(source)
    assert after["still"] == before["still"], "the revision of a document that nobody touched is another"
    assert after["edited"] != before["edited"], "the revision of a document that was edited is the same"


@CHECKS.add
def a_fetched_document_is_the_listed_one(trial: Trial) -> None:
    """Path, revision, text, digest, size and time of a fetched document belong together."""
    source = trial.source()
    paths = trial.put_any(PATHS)
    revisions = listing(source)
    for path in paths:
        found = trial.fetched(source, path)
        assert found.path == path
        assert found.revision == revisions[path], (
            f"{path!r} is listed as {revisions[path]}, fetched as {found.revision}"
        )
        assert found.text == f"text of {path}\n", f"the text of {path!r} is {found.text!r}"
        assert found.digest == content_hash(found.text), "the digest is not pipeline.identity.content_hash of the text"
        assert found.size == len(found.text.encode()), "the size is not that of the text in UTF-8"
        assert found.media_type, "there is no media type"
        assert abs(found.event_time - time.time()) < _CLOCK_SECONDS, f"it says that it changed at {found.event_time}"
        assert not found.omitted


@CHECKS.add
def fetching_twice_gives_the_same(trial: Trial) -> None:
    """Two fetches of a document that did not change are equal in all that is published."""
    source = trial.source()
    trial.put("same.md", "# A title\n\nand a text\n")
    list(source.scan())
    first, second = source.fetch("same.md"), source.fetch("same.md")
    assert first == second, f"first {first}, then {second}"


@CHECKS.add
def a_copy_embeds_nothing(trial: Trial) -> None:
    """A copy has text and digest of its original, and no metadata that hold its path."""
    source = trial.source()
    trial.put("one/original.txt", "the same text")
    trial.put("two/copy.txt", "the same text")
    list(source.scan())
    original, copy = trial.fetched(source, "one/original.txt"), trial.fetched(source, "two/copy.txt")
    assert (original.digest, original.text) == (copy.digest, copy.text), "the path is in the text or in the digest"
    assert "original" not in repr(original.metadata), f"the path is in the metadata: {original.metadata}"


@CHECKS.add
def metadata_are_scalars_and_lists_of_text(trial: Trial) -> None:
    """Metadata are texts, numbers, truth values and lists of texts, by name."""
    source = trial.source()
    trial.put("m.md", "# T\n\nx\n")
    list(source.scan())
    for name, value in trial.fetched(source, "m.md").metadata.items():
        assert isinstance(name, str)
        plain = isinstance(value, str | int | float | bool) or _texts(value)
        assert plain, f"the metadata field {name!r} is {value!r}"


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@CHECKS.add
def what_is_not_listed_cannot_be_fetched(trial: Trial) -> None:
    """Names of nothing, of folders and of what lies outside are no documents."""
    source = trial.source()
    trial.put("a.txt", "x")
    trial.put("a/b", "x")
    list(source.scan())
    for path in _NOWHERE:
        found = source.fetch(path)
        assert found is None, f"fetching {path!r} gave {found!r}"


@CHECKS.add
def a_removed_document_is_gone(trial: Trial) -> None:
    """A document that was removed is neither listed nor fetched."""
    source = trial.source()
    trial.put("gone", "x")
    list(source.scan())
    trial.remove("gone")
    listed = listing(source)
    assert listed == {}, f"listed is {listed}"
    found = source.fetch("gone")
    assert found is None, f"fetching it gave {found!r}"


@CHECKS.add
def every_change_is_hinted(trial: Trial) -> None:
    """After a scan, a document that is created, edited, renamed or removed is hinted, with a true time."""
    source = trial.source()
    list(source.scan())
    steps: list[tuple[Callable[[], None], list[str]]] = [
        (lambda: trial.put("d.txt", "1"), ["d.txt"]),
        (lambda: trial.put("d.txt", "2"), ["d.txt"]),
    ]
    last = "d.txt"
    if isinstance(trial.place, Renames):
        steps.append((lambda: trial.rename("d.txt", "e.txt"), ["d.txt", "e.txt"]))
        last = "e.txt"
    steps.append((lambda: trial.remove(last), [last]))
    for change, paths in steps:
        before = time.time()
        change()
        for hint in trial.hinted(source, paths):
            assert hint.at is None or before - 1 <= hint.at <= time.time(), f"{hint} is of another time than the change"


@CHECKS.add
def a_change_during_the_scan_is_hinted(trial: Trial) -> None:
    """Nothing falls between the first scan and watching."""
    trial.put_many({f"{number}.txt": "x" for number in range(20)})
    source = trial.source()
    scan = without_pauses(source.scan())
    next(scan)
    trial.put("0.txt", "changed behind the scan's back")
    trial.put("new.txt", "x")
    list(scan)
    trial.hinted(source, ["0.txt", "new.txt"])


@CHECKS.add
def a_quiet_place_gives_no_hints(trial: Trial) -> None:
    """While nothing changes, nothing is hinted, but for the scans that a source which polls asks for."""
    source = trial.source()
    trial.put("quiet", "x")
    list(source.scan())
    trial.put("the last change", "x")
    trial.hinted(source, ["the last change"])  # whatever is told of what was before has come by then
    trial.settled(source)
    for hint in source.hints(trial.quiet_seconds):
        assert trial.polls, f"{hint}, though nothing changed"
        assert hint.path is None, f"{hint}, though nothing changed"


@CHECKS.add
def close_wakes_a_waiting_thread(trial: Trial) -> None:
    """``close`` from another thread ends a waiting ``hints`` at once, and may be called again."""
    source = trial.source()
    list(source.scan())
    woken = threading.Event()

    def wait() -> None:
        source.hints(10 * trial.scale.patience_seconds)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.1)
    source.close()
    assert woken.wait(trial.scale.patience_seconds), "`hints` still waits"
    source.close()


@CHECKS.add
def two_sources_over_one_place_agree(trial: Trial) -> None:
    """A restart sees what was seen before it: the same list, the same revisions, the same documents."""
    paths = trial.put_any(PATHS)
    one, other = trial.source(), trial.source()
    first, second = listing(one), listing(other)
    assert first == second, f"one lists {first}, the other {second}"
    for path in paths:
        found, again = one.fetch(path), other.fetch(path)
        assert found == again, f"one fetches {found}, the other {again}"
