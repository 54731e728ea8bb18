"""Files are read in shards that fit together without gap or overlap, however their lines lie."""

import gzip
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subopt.recipes.data import lines
from subopt.recipes.data.lines import JsonLinesFile, TextFile

PIECE = 16  # small, so that a short text has many


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PIECE_BYTES", PIECE)
        yield


def shards(file):
    return [list(file.documents(shard)) for shard in range(len(file))]


def slow_pieces(content: bytes) -> list[bytes]:
    """Cut after the first line end at or beyond each multiple, at most one length on; else at a character."""
    cuts = [0]
    for nominal in range(PIECE, len(content), PIECE):
        ends = [
            i + 1 for i in range(nominal - 1, nominal - 1 + PIECE) if content[i : i + 1] == b"\n"
        ]
        if ends:
            cuts.append(ends[0])
            continue
        cut = nominal
        while cut < len(content) and content[cut] & 0xC0 == 0x80:
            cut += 1
        cuts.append(cut)
    cuts.append(len(content))
    pieces = [content[first:last] for first, last in itertools.pairwise(cuts)]
    return [piece for piece in pieces if piece]


@given(st.text(alphabet="ab\n\r東é", max_size=120))
def test_pieces_of_text(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("pieces")
    content = text.encode()
    (folder / "a.txt").write_bytes(content)
    (folder / "a.txt.gz").write_bytes(gzip.compress(content))
    found = [piece for shard in shards(TextFile(folder / "a.txt")) for piece in shard]
    assert [piece.encode() for piece in found] == slow_pieces(content)
    assert "".join(found) == text
    assert max((len(piece.encode()) for piece in found), default=0) < 2 * PIECE
    assert shards(TextFile(folder / "a.txt.gz")) == [found]


@given(st.lists(st.text(alphabet="ab東", max_size=60), max_size=12), st.booleans())
def test_lines_of_json(tmp_path_factory, texts, ends):
    file = tmp_path_factory.mktemp("lines") / "a.jsonl"
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file.write_text("\n".join(rows) + "\n" * ends, encoding="utf-8")
    found = [text for shard in shards(JsonLinesFile(file, "text")) for text in shard]
    assert found == [text for text in texts if text]
