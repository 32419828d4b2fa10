"""Every kind of issue that vlitqc itself reports: its severities and what helps against it.

A third party's metric may bring more. ``docs/formats.md`` tells what each means.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """``severities``, gravest first; ``cure`` is a sentence of what is wrong and what to do."""

    severities: tuple[str, ...]
    cure: str


_ERROR, _WARNING, _NOTE = ("error",), ("warning",), ("note",)


def _of_media(name: str, files: str) -> dict[str, Kind]:
    """The kinds that pictures, videos and audio have in common."""
    return {
        f"{name}_token_mismatch": Kind(
            ("error", "note"),
            f"{name} tokens and {files} differ in number; the trainer would fail or misalign them",
        ),
        f"missing_{name}": Kind(
            _ERROR, f"the {files} are not where the records say; check --image-root or the copy"
        ),
        f"unreadable_{name}": Kind(
            _ERROR, f"the {files} cannot be decoded; fetch them again or drop the records"
        ),
        f"truncated_{name}": Kind(_ERROR, f"the {files} end early; fetch them again or drop the records"),
        f"remote_{name}": Kind(
            _ERROR, f"the {files} are URLs that were not fetched; pass --allow-remote, or download them"
        ),
    }


KINDS: dict[str, Kind] = {
    "malformed_record": Kind(
        _ERROR, "these are not valid records; mend them at the places listed, or name the fields with --map"
    ),
    "ragged_row": Kind(
        _ERROR, "these rows have more or fewer fields than columns; quote fields that hold the separator"
    ),
    "unbalanced_quote": Kind(
        _ERROR, "a quoted field is not closed, or goes on after its quote; write quotes within it twice"
    ),
    "unreadable_file": Kind(_ERROR, "whole files cannot be read; the issues say why, and what helps"),
    "damaged_file": Kind(_WARNING, "the packed data is damaged and what follows is lost; fetch it again"),
    "list_cut_short": Kind(
        _WARNING, "the file ends early and later records are lost; fetch or export it again"
    ),
    "damaged_table": Kind(_ERROR, "a part of the table cannot be read; write the file again"),
    "table_cut_short": Kind(_WARNING, "the table lost its end; write the file again"),
    "unreadable_value": Kind(_WARNING, "values that Python cannot hold are left out; cast the column"),
    "archive_cut_short": Kind(_WARNING, "the archive ends without its mark; pack it again"),
    "after_end_of_archive": Kind(_WARNING, "samples lie behind the archive's end mark; pack it again"),
    "stray_member": Kind(_WARNING, "members of the archive belong to no sample; remove or rename them"),
    "split_sample": Kind(_WARNING, "members of one sample stand apart; sort the archive by name"),
    "duplicate_member": Kind(_WARNING, "a sample holds a member twice; pack the archive again"),
    "unread_member": Kind(_WARNING, "links and devices in samples are not read; pack the files themselves"),
    "member_too_large": Kind(_ERROR, "a member of the archive is over the limit; take it out"),
    "duplicate_key": Kind(_WARNING, "an object has a key twice, and the last is read; remove one"),
    "broken_character": Kind(_WARNING, "the text holds broken characters; export it again as UTF-8"),
    "empty_turn": Kind(
        ("error", "warning"), "a turn has no response to learn from, or no instruction; complete or drop it"
    ),
    "unknown_role": Kind(
        _WARNING, "a speaker is neither side of the conversation; correct the name of the role"
    ),
    **_of_media("image", "pictures"),
    **_of_media("video", "videos"),
    **_of_media("audio", "audio files"),
    "path_outside_root": Kind(
        _ERROR, "the paths leave the image root; correct them, or pass --allow-outside if they are meant"
    ),
    "wrong_extension": Kind(_NOTE, "the content is of another format than the name says; rename the files"),
    "animated_image": Kind(_NOTE, "only the first frame is looked at; extract the one that is meant"),
    "multipage_image": Kind(_NOTE, "only the first page is looked at; extract the one that is meant"),
    "duplicate_id": Kind(_NOTE, "an earlier record has the same id; make ids distinct"),
    "long_text": Kind(_NOTE, "a text has more than 50,000 characters; split it"),
    "small_image": Kind(_NOTE, "the pictures show little at this size; use larger ones where there are any"),
    "exact_duplicate": Kind(_ERROR, "the same conversation on the same picture occurs again; keep one"),
    "near_duplicate_text": Kind(
        _WARNING, "nearly the same response on the same picture occurs again; keep one, or reword"
    ),
    "near_duplicate_image": Kind(_NOTE, "nearly the same picture occurs again; keep one if it is not meant"),
    "rare_task": Kind(_NOTE, "few records have this task; add some, or leave it"),
    "untagged": Kind(
        _WARNING, "the judge did not name their task; run the same command again when it answers"
    ),
    "metric_error": Kind(_ERROR, "a metric failed on these records; the table says how"),
    "crashed_worker": Kind(_ERROR, "scoring these records ends the process; look at their pictures first"),
}
