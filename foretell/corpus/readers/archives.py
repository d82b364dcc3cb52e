"""Members of archives and what compressed files hold, streamed: nothing is unpacked to where a member's name points."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile
from types import SimpleNamespace
from typing import Any, BinaryIO, Self, cast

import zstandard

from foretell.corpus.readers.entry import BUFFER_BYTES, SMALL_BYTES, Bomb, Budget, Entry, Records, counted
from foretell.corpus.readers.formats import inner_name

MAX_MEMBERS = 10_000_000
LARGEST_BYTES = 2**32  # of a member that has to lie in a temporary file
CHUNK_BYTES, SPOOL_BYTES, STEP_BYTES = 2**20, 2**24, 2**10  # of a step of zstd at most 32 MB come out
LONG_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError)
LIES = (RuntimeError, ValueError, LookupError, OverflowError, MemoryError)  # what headers that lie bring zipfile and tarfile to

Reader = Callable[[Entry], Records]


@contextmanager
def seekable(entry: Entry) -> Iterator[Entry]:
    """The entry, from a temporary file if it cannot be read again otherwise. Raises Bomb where that is too large."""
    if entry.seekable:
        yield entry
        return
    with SpooledTemporaryFile(SPOOL_BYTES) as copy:
        size_bytes = 0
        while content := entry.stream.read(CHUNK_BYTES):
            size_bytes += copy.write(content)
            if size_bytes > LARGEST_BYTES:
                raise Bomb
        copy.seek(0)
        stream = io.BufferedReader(cast(io.RawIOBase, copy), BUFFER_BYTES)
        yield replace(entry, stream=stream, size_bytes=size_bytes, seekable=True)


def read_compressed(entry: Entry, kind: str, read: Reader) -> Records:
    """What a compressed file holds: a tar streams out of it, anything else is unpacked once before and taken whole or not."""

    def inside(depth: int) -> Entry:
        entry.stream.seek(0)
        stream = counted(_decompressor(entry.stream, kind), Budget(entry.size_bytes, entry.settings))
        return replace(entry, stream=stream, called=inner_name(entry.called or entry.name), seekable=False, depth=depth)

    try:
        inner = inside(entry.depth)
        if inner.head[257:262] != b"ustar":
            while inner.stream.read(CHUNK_BYTES):
                pass
            inner = inside(entry.depth + 1)
        yield from read(inner)
    except Bomb:
        yield entry.dropped("gzip_bomb")
    except (*DAMAGE, *LIES):
        yield entry.dropped("damaged_gzip")


def _decompressor(stream: BinaryIO, kind: str) -> Callable[[int], bytes]:
    if kind == "gz":
        return gzip.GzipFile(fileobj=stream, mode="rb").read1
    if kind == "bz2":
        return bz2.BZ2File(stream).read1
    return _frames(stream, zstandard.ZstdDecompressor().decompressobj if kind == "zst" else _xz)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=2**28)


def _frames(stream: BinaryIO, make: Callable[[], Any]) -> Callable[[int], bytes]:
    """What one frame after the other holds. EOFError where the last is cut short, which zstandard's own stream does not see."""
    decoder, ready, untouched = make(), bytearray(), True

    def read(size_bytes: int) -> bytes:
        nonlocal decoder, untouched
        while len(ready) < size_bytes:
            content = b""
            if decoder.eof:
                content, decoder, untouched = decoder.unused_data.lstrip(b"\0"), make(), True
            content = content or stream.read(STEP_BYTES)
            if not content and (untouched or ready):
                break
            if not content:
                raise EOFError
            if untouched := untouched and not content.strip(b"\0"):  # padding
                continue
            ready.extend(decoder.decompress(content))
        taken = bytes(ready[:size_bytes])
        del ready[:size_bytes]
        return taken

    return read


def read_zip(entry: Entry, read: Reader) -> Records:
    """The members of a zip file, one after the other; a damaged one costs itself alone."""
    budget = Budget(entry.size_bytes, entry.settings, small_bytes=16 * SMALL_BYTES)
    try:
        with zipfile.ZipFile(entry.stream) as archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise Bomb
            for info in archive.infolist():
                if not info.is_dir():
                    member = _member(entry, info.filename, info.compress_size)
                    link = stat.S_ISLNK(info.external_attr >> 16)
                    reason = _refusal(info.filename) or ("outside_link" if link else "encrypted" if info.flag_bits & 1 else None)
                    yield from [member.dropped(reason)] if reason else _zip_member(archive, info, member, budget, read)
                if budget.left_bytes < 0:
                    raise Bomb
    except Bomb:
        yield entry.dropped("gzip_bomb")
    except (*DAMAGE, *LIES):
        yield entry.dropped("broken_archive")


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: Entry, budget: Budget, read: Reader) -> Records:
    """A member, unpacked once before, so that it is taken whole or not."""
    try:
        with archive.open(info) as stream:
            once = counted(stream.read, Budget(info.compress_size, member.settings, budget))
            while once.read(CHUNK_BYTES):
                pass
        with archive.open(info) as stream:
            yield from read(replace(member, stream=io.BufferedReader(cast(io.RawIOBase, stream), BUFFER_BYTES)))
    except Bomb:
        yield member.dropped("gzip_bomb")
    except (*DAMAGE, *LIES):
        yield member.dropped("broken_archive")


def read_tar(entry: Entry, read: Reader) -> Records:
    """The members of a tar as it streams by; where it is damaged it ends."""
    budget, count = Budget(entry.size_bytes, entry.settings, small_bytes=16 * SMALL_BYTES), 0
    try:
        pieces: Any = SimpleNamespace(read=cast(io.BufferedReader, entry.stream).read1)  # what is there, before an error
        with tarfile.open(fileobj=pieces, mode="r|", tarinfo=_Header) as archive:
            while (info := archive.next()) is not None and (count := count + 1) <= MAX_MEMBERS:
                archive.members.clear()  # type: ignore[attr-defined] # it keeps all that it has seen
                member = _member(entry, info.name, info.size)
                if reason := _refusal(info.name) or (None if info.isfile() or info.isdir() else "outside_link"):
                    yield member.dropped(reason)
                elif info.isfile():
                    stream = counted(cast(Any, archive.extractfile(info)).read, Budget(info.size, entry.settings, budget))
                    yield from read(replace(member, stream=stream))
                    if budget.left_bytes < 0:
                        raise Bomb
    except Bomb:
        yield entry.dropped("gzip_bomb")
    except (*DAMAGE, *LIES):
        yield entry.dropped("broken_archive")


class _Header(tarfile.TarInfo):
    """A header of a tar. Raises ReadError for damaged ones, after which tarfile would end without a word, and for huge names."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in LONG_HEADERS and header.size > CHUNK_BYTES:
            raise tarfile.ReadError("a name longer than 1 MiB")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise  # the end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _member(entry: Entry, name: str, size_bytes: int) -> Entry:
    told = name.encode("utf-8", "replace").decode()
    member = replace(entry, name=f"{entry.name}!/{told}", label=f"{entry.label}!/{told}", size_bytes=size_bytes)
    return replace(member, called=None, seekable=False, depth=entry.depth + 1, metadata={})


def _refusal(name: str) -> str | None:
    """Why a member of this name is not read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        return "escaping_member"
    return "hidden" if any(part.startswith(".") for part in path.parts) or path.parts[:1] == ("__MACOSX",) else None
