"""Quality: the sets of rules that a user chose judge a document, in their order, on one scan of it."""

from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.rules import c4, fineweb, gopher, lenient
from foretell.corpus.rules.bad_words import bad_words
from foretell.corpus.scan import Scan, fault

PUBLISHED = {"gopher": gopher.QUALITY, "gopher-repetition": gopher.REPETITION, "fineweb": fineweb.RULES}


def judge(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """The document, or what is left of it after C4's rules for lines; dropped for the first fault found. Raises SettingError.

    metadata: `dropped_lines`, where C4's rules left out some.
    """
    scan = Scan(document.text)
    for name in settings.rules:
        if name == "c4":
            kept = c4.kept_lines(scan.text)
            if isinstance(kept, str):
                return document.dropped(kept)
            text, dropped_lines = "\n".join(kept[0]).strip(), kept[1]
            if text != scan.text:
                document = replace(document, text=text, metadata=document.metadata | {"dropped_lines": dropped_lines})
                scan = Scan(text)
            continue
        if name == "lenient":
            reason = next((reason for reason, found in lenient.faults(scan, settings) if found), None)
        else:
            reason = fault(scan, PUBLISHED[name])
        if reason is not None:
            return document.dropped(reason)
    if settings.bad_words is not None and bad_words(settings.bad_words).in_text(scan.text):
        return document.dropped("bad_words")
    return document
