"""Writing one shard of the plan: a pure function of the plan, whoever does it and however often."""

from __future__ import annotations

import json
from collections import Counter

from ..decode import UndecodableImage
from ..records import Piece, Record
from ..writer import ShardWriter
from .lengths import caption_lengths
from .plan import Planned
from .scan import Job, source_name


def write_shard(job: Job, planned: tuple[str, list[Planned]]) -> dict:
    """Write one shard.

    Args:
        job: What all processes share.
        planned: Its path below the output, and what it shall hold.

    Returns:
        Its entry in the index (empty if no sample was usable), the sizes of its pictures ("WxH": count), the lengths of
        its captions (length: count), and what was rejected.
    """
    name, samples = planned
    pieces: dict[int, Piece] = {}
    sizes: Counter[str] = Counter()
    captions: list[str] = []
    rejected: list[dict[str, str]] = []
    with ShardWriter(job.out / name) as writer:
        for number, index, key in samples:
            if number not in pieces:
                pieces[number] = job.reader.piece(number)
            record = pieces[number].load(index)
            try:
                if record.problem:
                    raise UndecodableImage(record.problem)
                data, suffix, (width, height) = job.options.encoding.apply(record.image)
            except UndecodableImage as error:
                source = source_name(pieces[number], index)
                rejected.append({"source": source, "key": key, "reason": str(error)})
                continue
            writer.write(key, {suffix: data, **_caption_file(record)})
            sizes[f"{width}x{height}"] += 1
            captions += record.captions
    for piece in pieces.values():
        piece.close()
    lengths = caption_lengths(captions, job.options.tokenizer)
    return {"entry": writer.entry(), "sizes": sizes, "lengths": lengths, "rejected": rejected}


def _caption_file(record: Record) -> dict[str, bytes]:
    if len(record.captions) == 1:
        return {"txt": record.captions[0].encode()}
    return {"json": json.dumps({"captions": record.captions}, ensure_ascii=False).encode()}
