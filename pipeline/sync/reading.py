"""Steps 1 and 2: read the heads, then find out which chunks need a vector from the model."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import CollectionMissing, FingerprintMismatch, Poison
from pipeline.identity import stamp_of
from pipeline.points import Head, Vectors
from pipeline.ports import Collection
from pipeline.records import ChunkedDocument, ChunkSpan
from pipeline.sync import guards
from pipeline.sync.batches import TRUSTING, Distrust, Plan, PreparedBatch, ToEmbed
from pipeline.sync.filters import FilterFields, filter_fields
from pipeline.sync.foretelling import deviation, foretold_of, point_ids


def prepare(
    collection: Collection,
    documents: Sequence[ChunkedDocument],
    siblings: Sequence[Collection] = (),
    distrusted: Distrust = TRUSTING,
) -> PreparedBatch:
    """Steps 1 and 2 for a batch; writes nothing. At most four requests, and one for each sibling.

    Args:
        collection: the generation's collection.
        documents: events of this generation, in any order; one version of each document is kept.
        siblings: collections that may hold vectors already; those of another model are ignored.
        distrusted: replays of these documents run again whatever their heads say, and chunks with
            these content hashes are embedded anew: what is stored of them is not believed.

    Raises:
        FingerprintMismatch: a document was chunked for another generation.
        LogDiverged: an equal version has another content.
    """
    refuse_foreign(collection, documents)
    newest = guards.newest(documents)
    # 1. Read the heads, and see which of the points that we would rely on are there.
    heads = collection.heads(list(newest)) if newest else {}
    ids = {doc: point_ids(document) for doc, document in newest.items()}
    present = relied_on(collection, newest, heads, ids)
    plans = tuple(
        _plan(
            document,
            heads.get(doc),
            ids[doc],
            present - believed_not(document, ids[doc], distrusted),
            filter_fields(document, collection.spec.filter_fields),
            doc in distrusted,
        )
        for doc, document in newest.items()
    )
    # 2. Find vectors by content hash; what is found nowhere goes to the model, each text once.
    needed: dict[str, ToEmbed] = {}
    for plan in plans:
        for _, _, span in plan.needed:
            if span.content_hash not in needed:
                needed[span.content_hash] = ToEmbed(span.content_hash, embedded_text(plan.document, span), span.tokens)
    wrong = frozenset[str]().union(*distrusted.values())
    found = _donors(collection, siblings, [content for content in needed if content not in wrong])
    to_embed = [item for content, item in needed.items() if content not in found]
    return PreparedBatch(collection, plans, found, to_embed, len(documents) - len(plans))


def refuse_foreign(collection: Collection, documents: Sequence[ChunkedDocument]) -> None:
    """A collection holds one generation.

    Raises:
        FingerprintMismatch: a document was chunked for another one.
    """
    for document in documents:
        if document.generation != collection.spec.generation:
            raise FingerprintMismatch(
                f"{document.key.text} was chunked for generation {document.generation}, "
                f"collection {collection.spec.name} is of {collection.spec.generation}",
                "let workers take their specs from control, and read each generation's own chunks topic",
            )


def believed_not(document: ChunkedDocument, ids: Sequence[str], distrusted: Distrust) -> frozenset[str]:
    """The points of a document whose vectors are not believed."""
    wrong = distrusted.get(document.key.doc, frozenset())
    return frozenset(id for id, span in zip(ids, document.chunks, strict=True) if span.content_hash in wrong)


def embedded_text(document: ChunkedDocument, span: ChunkSpan) -> str:
    """Exactly what the content hash covers and the model is given (without its prompt)."""
    return span.context + document.text[span.start : span.end]


def relied_on(
    collection: Collection,
    documents: dict[str, ChunkedDocument],
    heads: dict[str, Head],
    ids: dict[str, list[str]],
) -> set[str]:
    """Of the points that heads list and this batch builds on, those that exist.

    All of the list, not only what the event shares with it: should none of its chunks be
    embeddable, the whole old list is what stays readable. Where an equal event's head does not
    list all of its chunks, those as well: a run that was cut off may have left some.
    """
    wanted: list[str] = []
    for doc, document in documents.items():
        head = heads.get(doc)
        if head is None or document.state == "deleted" or guards.standing(head, document) == "stale":
            continue
        wanted += [chunk.id for chunk in head.chunks]
        if head.state != "complete" and guards.standing(head, document) == "equal":
            wanted += ids[doc]
    return collection.existing(wanted) if wanted else set()


def _plan(
    document: ChunkedDocument,
    head: Head | None,
    ids: list[str],
    present: set[str],
    fields: FilterFields,
    distrusted: bool,
) -> Plan:
    plan = Plan(document, head, None, "stale", fields, ids, again=distrusted)
    standing = guards.standing(head, document)
    if standing == "newer" or head is None:
        plan.stamp = stamp_of(document.version)
    elif standing == "equal":
        guards.refuse_divergence(head, document, ids)
        listed = {chunk.id for chunk in head.chunks}
        lost = document.state != "deleted" and not listed <= present
        begun = head.state != "complete" and any(id in present and id not in listed for id in ids)
        plan.result = "unchanged"
        other = document.replay and (distrusted or deviation(head, foretold_of(document, ids, fields)) is not None)
        if guards.reruns(head, document, lost, begun, other):
            try:
                plan.stamp = guards.rerun_stamp(head)
            except Poison as poison:
                plan.result, plan.poison = "exhausted", poison
    if head is not None and plan.stamp is not None:
        plan.kept = guards.kept(head, present)
    return plan


def _donors(collection: Collection, siblings: Sequence[Collection], hashes: list[str]) -> dict[str, Vectors]:
    found: dict[str, Vectors] = {}
    for donor in (collection, *siblings):
        # A vector of another model is a point in another space, whatever its dimension.
        if donor.spec.model_fingerprint != collection.spec.model_fingerprint:
            continue
        missing = [content for content in hashes if content not in found]
        if not missing:
            break
        try:
            found.update(donor.vectors(missing))
        except CollectionMissing:
            if donor is collection:
                raise
            # A sibling that was retired meanwhile gives nothing; that costs embeddings only.
    return found
