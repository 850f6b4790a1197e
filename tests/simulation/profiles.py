"""What a schedule is made of: how many documents, what happens to them, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Profile:
    """Bounds and chances of a schedule. A chance is per decision and between 0 and 1."""

    name: str
    documents: int = 2
    changes: int = 6
    letters: int = 5
    """Different paragraphs: few, so that the same chunk comes, goes and comes back."""
    paragraphs: int = 4
    """Most paragraphs of a document."""
    batch: int = 3
    delete: float = 0.15
    edits: float = 1.0
    """That a change is one of the text."""
    metadata: float = 0.25
    """That a change is one of the filter fields."""
    values: str = "xyz"
    """Of the filter field. Empty: every change brings a new one."""
    chunker_failure: float = 0.0
    broken_text: float = 0.0
    """That a paragraph cannot be embedded, for a while."""
    replay: float = 0.0
    """That a dead letter is sent round again at its own version."""
    duplicate: float = 0.0
    """That the chunker writes a record twice, the second time at any later place."""
    compaction: float = 0.0
    crash: float = 0.0
    """Of the owner, between any two requests; the next one starts at the committed offset."""
    zombies: int = 0
    """How many owners go on although another has taken over."""
    takeover: float = 0.0
    deaths: float = 0.0
    """That a zombie dies between two requests. Then only the repair walk sweeps what it left."""
    last_walk: bool = True
    """That the repair walk comes in the end, if a zombie has died."""
    repair: float = 0.0
    """That the repair walk looks at a document between two requests."""
    verify: float = 0.0
    """That somebody verifies between two requests, and repairs what they find."""
    nothing_found: bool = False
    """That they find nothing: nobody dies having written, or works on what another has taken over."""
    spoil: float = 0.0
    """That a point is lost, or there is one too many, or one is other than its log says."""
    torn: float = 0.0
    """That a request is applied in parts, with others in between."""
    unanswered: float = 0.0
    """That a request is applied but fails, and is sent again."""
    power_cut: float = 0.0
    """Everything stops, and of each point that was not flushed an older state may be what is left."""
    slices: float = 0.0
    """That a batch is worked off in slices."""
    final_replay: bool = False
    """At the end every text can be embedded and every dead letter is replayed: all is complete."""


CALM = Profile("calm", documents=3, changes=10, slices=0.3, repair=0.02, unanswered=0.02)
CRASHES = Profile(
    "crashes", changes=8, crash=0.06, duplicate=0.3, compaction=0.3, slices=0.3, torn=0.2, unanswered=0.03
)
ZOMBIES = Profile(
    "zombies",
    documents=1,
    changes=6,
    letters=4,
    crash=0.02,
    takeover=0.12,
    zombies=2,
    duplicate=0.1,
    compaction=0.5,
    slices=0.1,
)
CROWD = Profile(
    "crowd",
    changes=8,
    crash=0.02,
    takeover=0.1,
    zombies=2,
    deaths=0.05,
    duplicate=0.2,
    compaction=0.3,
    chunker_failure=0.1,
    broken_text=0.15,
    replay=0.3,
    repair=0.05,
    torn=0.2,
    unanswered=0.03,
    slices=0.2,
)
FAILURES = Profile(
    "failures",
    crash=0.03,
    takeover=0.06,
    zombies=1,
    duplicate=0.2,
    chunker_failure=0.15,
    broken_text=0.4,
    replay=0.5,
    slices=0.2,
    final_replay=True,
)
#: One text, and its permissions go back and forth: an old aligner finds chunks that look right to
#: the newer one.
PERMISSIONS = Profile(
    "permissions",
    documents=1,
    changes=5,
    paragraphs=2,
    delete=0.0,
    edits=0.0,
    metadata=0.9,
    values="xy",
    takeover=0.15,
    zombies=2,
    duplicate=0.1,
    compaction=0.3,
)
#: One text, and permissions that never come back: whoever dies, the guards alone keep it right.
GRANTS = replace(PERMISSIONS, name="grants", values="", deaths=0.1, last_walk=False)
POWER = Profile(
    "power",
    crash=0.03,
    power_cut=0.03,
    duplicate=0.2,
    compaction=0.2,
    chunker_failure=0.1,
    broken_text=0.25,
    replay=0.3,
    repair=0.02,
    slices=0.2,
)

PROFILES = {one.name: one for one in (CALM, CRASHES, ZOMBIES, CROWD, FAILURES, PERMISSIONS, GRANTS, POWER)}
#: Those in which somebody verifies and repairs meanwhile. Where nobody dies having written and nobody
#: works on what another has taken over, they must find nothing; else whatever they repair must do no harm.
VERIFIED = {
    one.name: one
    for one in (
        replace(CALM, name="verified-busy", changes=40, batch=2, slices=0.5, verify=0.5, nothing_found=True),
        replace(CRASHES, name="verified-crashes", verify=0.05, nothing_found=True),
        replace(CROWD, name="verified-crowd", verify=0.05),
        replace(PERMISSIONS, name="verified-permissions", verify=0.08),
        replace(POWER, name="verified-power", verify=0.05),
        replace(CALM, name="spoilt-calm", verify=0.05, spoil=0.03),
        replace(CRASHES, name="spoilt-crashes", verify=0.05, spoil=0.03),
        replace(CROWD, name="spoilt-crowd", verify=0.05, spoil=0.03),
    )
}
