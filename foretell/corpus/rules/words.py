"""Words as the published rules count them: a full stop, a quotation mark and the n't of don't are words of their own.

The rules were tuned with the tokens of spaCy's English tokenizer. This splitter follows its documented rules (affixes come off one
by one, then infixes, save in abbreviations, contractions and addresses) without the long tail of its exceptions.
"""

import re

import regex

WHOLE = """
    Adm. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. Dec. Del. Dr. Feb. Fla. Ga. Gen. Gov. Ill. Inc. Ind. Jan. Jr.
    Jul. Jun. Kan. Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. Neb. Nev. Nov. Oct. Okla. Ore.
    Pa. Ph.D. Prof. Rep. Rev. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. E.g. i.e. I.e. p.m. v.s. vs.
    's ’s 'S 'em 'd 'll 're 've '' ): :) :("""
ABBREVIATIONS = frozenset(WHOLE.split())
SIGNS = frozenset("""§=—–…,:;!?¿¡()[]{}<>_#*&~·'"”“`‘´’‚„»«%。？！，、；：～।،۔؛٪「」『』（）【】《》〈〉©®°™•▪■●★→""")
CURRENCY = frozenset("$£€¥₹₽₩")
PLAIN = re.compile(r"""([(\["“”‘’'_*]*)([A-Za-z]+)([,;:!?.)\]"“”‘’'_*]*)""")  # most of prose
CONTRACTED = {  # what stands before; what may follow without an apostrophe
    "can": "not",
    "gon got": "na ta",
    "ai are ca could did does do had has have is might must need should was were wo would": "nt",
    "he she that there what where who how when why": "s",
    "they you we": "ve",
    "they you": "re ll d",
    "it that there what who": "ll d",
    "i": "m ve",
}
JOINED = {first + last: len(first) for firsts, lasts in CONTRACTED.items() for first in firsts.split() for last in lasts.split()}
CONTRACTION = re.compile(r"(?<=[a-z])(?:n['’]t|['’](?:ll|ve|re|d|m|s))$", re.IGNORECASE)
UNIT = re.compile(r"(?<=[0-9])(?:[kcmn]?m|[km]?g|lb|oz|ft|in|yd|[kKMG]B|[TtGMK])$")
INFIX = regex.compile(
    r"""\.\.+|[…\p{So}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[\p{Ll}'"”“`‘’])\.(?=[\p{Lu}'"”“`‘’])|(?<=\p{L}),(?=\p{L})"""
    r"""|(?<=[\p{L}0-9])(?:---|--|——|[-–—~])(?=\p{L})|(?<=[\p{L}0-9])[:<>=/](?=\p{L})"""
)
ADDRESS = re.compile(
    r"(?:https?|ftp)://\S+|www\.\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|de|uk)(?:/\S*)?"
)
PIECES = re.compile(r"\w+|[^\w\s]")
MAX_CHARACTERS = 200


def split_words(chunk: str) -> list[str]:
    """The words of a run of visible characters, in order; together they are the run.

    Longer runs than 200 characters are no language; they are cut between word characters and signs, in linear time.
    """
    if chunk.isalpha():
        return core(chunk)
    if chunk in ABBREVIATIONS:
        return [chunk]
    plain = PLAIN.fullmatch(chunk)
    if plain:
        lead, word, tail = plain.groups()
        if "." not in tail or not (".." in tail or len(word) == 1 or word[-1].isupper() or word + "." in ABBREVIATIONS):
            return [*lead, *core(word), *tail] if word.lower() in JOINED else [*lead, word, *tail]
    return PIECES.findall(chunk) if len(chunk) > MAX_CHARACTERS else peeled(chunk)


def peeled(chunk: str) -> list[str]:
    """The words of a run: signs come off both ends until only its core is left."""
    leads: list[str] = []
    tails: list[str] = []
    while chunk and not (chunk.isalpha() or chunk in ABBREVIATIONS):
        lead = lead_length(chunk)
        if lead:
            leads.append(chunk[:lead])
            chunk = chunk[lead:]
            if not chunk or chunk in ABBREVIATIONS:
                break
        tail = tail_length(chunk)
        if tail:
            tails.append(chunk[-tail:])
            chunk = chunk[:-tail]
        if not lead and not tail:
            break
    return [*leads, *core(chunk), *reversed(tails)]


def lead_length(chunk: str) -> int:
    """Characters of the sign that comes off in front."""
    first = chunk[0]
    if first in SIGNS or first in CURRENCY:
        return 1
    if first == "." and chunk.startswith(".."):
        return len(chunk) - len(chunk.lstrip("."))
    return int(first == "+" and not chunk[1:2].isdigit())


def tail_length(chunk: str) -> int:
    """Characters of the sign, 's or unit that comes off at the end."""
    last, before = chunk[-1], chunk[-2:-1]
    if last in SIGNS:
        return 1
    if last == ".":
        if before == ".":
            return len(chunk) - len(chunk.rstrip("."))
        ends = (
            before.isdigit()
            or before in SIGNS
            or before in "-+"
            or (before.islower() and len(chunk) > 2)
            or (before.isupper() and chunk[-3:-2].isupper())
        )
        return int(bool(before) and ends)
    if last in "sS" and before and before in "'’":
        return 2
    if before.isdigit() and (last in CURRENCY or last == "+"):
        return 1
    unit = UNIT.search(chunk) if last.isalpha() else None
    return len(unit[0]) if unit else 0


def core(chunk: str) -> list[str]:
    """The words of a run that has lost its signs."""
    if chunk.isalpha():
        cut = JOINED.get(chunk.lower())
        return [chunk[:cut], chunk[cut:]] if cut else [chunk]
    if contraction := CONTRACTION.search(chunk):
        return [*core(chunk[: contraction.start()]), contraction[0]]
    if not chunk or chunk in ABBREVIATIONS or ADDRESS.fullmatch(chunk):
        return [chunk] if chunk else []
    words, start = [], 0
    for infix in INFIX.finditer(chunk):
        if infix.start() > start:
            words.append(chunk[start : infix.start()])
        words.append(infix[0])
        start = infix.end()
    return [*words, chunk[start:]] if start < len(chunk) else words
