"""Vocabularies by name: OpenAI's, where they are looked for, how they are downloaded; ours are in test_shipped.py."""

import base64
import hashlib
import http.server
import os
import stat
import threading

import pytest
import tiktoken.model

import bpetok
from bpetok import encodings
from bpetok.encodings import Published, RankFile

RANKS = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256)) + b"YWI= 256\n"


def sha256(contents):
    return hashlib.sha256(contents).hexdigest()


SHA256 = sha256(RANKS)


# ---- what they are --------------------------------------------------------------------------------------------------


def test_the_names_are_tiktokens_then_ours():
    *theirs, small, large = bpetok.list_encoding_names()
    assert sorted(theirs) == sorted(tiktoken.list_encoding_names())
    assert [small, large] == ["bpetok_32k", "bpetok_64k"]


@pytest.mark.parametrize("name", tiktoken.list_encoding_names())
def test_each_encoding_is_tiktokens(encoding, tiktoken_encoding, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    assert ours.name == theirs.name
    assert ours.vocab.ranks == theirs._mergeable_ranks
    assert ours.vocab.special_tokens == theirs._special_tokens
    assert ours.n_vocab == theirs.n_vocab
    for token_id in theirs._special_tokens.values():
        assert ours.is_special_token(token_id)


def test_an_encoding_is_made_once(encoding):
    assert encoding("r50k_base") is encoding("r50k_base")


def test_the_models_are_tiktokens():
    assert encodings._ENCODING_OF_MODEL == tiktoken.model.MODEL_TO_ENCODING
    assert encodings._ENCODING_OF_PREFIX == tiktoken.model.MODEL_PREFIX_TO_ENCODING


FAMILIES = [
    "gpt-4o-2024-05-13",
    "gpt-4-0314",
    "gpt-4.1-mini",
    "gpt-5-nano",
    "o1-mini",
    "gpt-oss-120b",
    "ft:gpt-4o:x",
    "ft:gpt-4:x",
]


@pytest.mark.parametrize(
    "model", [*tiktoken.model.MODEL_TO_ENCODING, *tiktoken.model.MODEL_PREFIX_TO_ENCODING, *FAMILIES]
)
def test_each_model_has_the_encoding_that_tiktoken_gives_it(model):
    assert bpetok.encoding_name_for_model(model) == tiktoken.encoding_name_for_model(model)


def test_a_model_leads_to_its_tokenizer(encoding):
    assert bpetok.encoding_for_model("davinci") is encoding("r50k_base")


def test_a_model_that_is_unknown_is_a_key_error():
    with pytest.raises(KeyError, match="must be a known one, got 'llama'"):
        bpetok.encoding_name_for_model("llama")
    with pytest.raises(bpetok.UnknownTokenError, match="got 'llama'") as caught:
        bpetok.encoding_for_model("llama")
    assert "get_encoding" in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("cl100k", "did you mean 'cl100k_base'?"),
        ("bpetok_23k", "did you mean 'bpetok_32k'?"),
        ("llama", "bpetok.load"),
        ("", "bpetok.load"),
    ],
)
def test_an_encoding_that_is_unknown_is_a_value_error_with_a_hint(wrong, hint):
    with pytest.raises(ValueError, match=f"must be one of gpt2, .*, bpetok_64k, got '{wrong}'"):
        bpetok.get_encoding(wrong)
    with pytest.raises(bpetok.EncodingError, match="must be one of") as caught:
        bpetok.get_encoding(wrong)
    assert hint in caught.value.hint


@pytest.mark.parametrize("wrong", [None, 5])
def test_a_name_that_is_no_text_is_a_value_error_as_in_tiktoken(wrong):
    for library in (tiktoken, bpetok):
        with pytest.raises(ValueError, match=r"string|must be"):
            library.get_encoding(wrong)


# ---- where they are looked for --------------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """`made_up(url, sha256)`: an encoding of that name in the table; both cache folders are new and empty."""
    monkeypatch.setenv("BPETOK_CACHE_DIR", str(tmp_path / "bpetok"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "tiktoken").mkdir()

    def enter(url="http://127.0.0.1:9/made_up.tiktoken", digest=SHA256):
        file = RankFile(url, digest)
        monkeypatch.setitem(encodings.ENCODINGS, "made_up", Published(file, "gpt2", {"<|endoftext|>": 257}))
        return file

    encodings._made.cache_clear()
    yield enter
    encodings._made.cache_clear()


@pytest.fixture
def server():
    """A server on this machine: `server.files` it serves, `server.asked` is what it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            contents = self.server.files.get(self.path)
            self.send_response(200 if contents is not None else 404)
            self.end_headers()
            self.wfile.write(contents or b"")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked = {"/made_up.tiktoken": RANKS}, []
        running.url = f"http://127.0.0.1:{running.server_port}/made_up.tiktoken"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_offline_the_error_says_which_file_to_put_where(made_up, tmp_path):
    file = made_up()
    with pytest.raises(
        bpetok.UnavailableError, match=r"made_up: http://127\.0\.0\.1:9/made_up\.tiktoken is not on this machine"
    ) as caught:
        bpetok.get_encoding("made_up")
    place = tmp_path / "bpetok" / file.sha256
    assert caught.value.hint.startswith(f"fetch it elsewhere and put it here: {place}, or let TIKTOKEN_CACHE_DIR")
    assert isinstance(caught.value, OSError)
    place.parent.mkdir()
    place.write_bytes(RANKS)
    assert bpetok.get_encoding("made_up").encode("ab") == [256]


def test_a_file_in_tiktokens_folder_is_read_and_nothing_is_written(made_up, tmp_path):
    file = made_up()
    (tmp_path / "tiktoken" / file.tiktoken_name).write_bytes(RANKS)
    assert bpetok.get_encoding("made_up").encode("ab") == [256]
    assert [path.name for path in (tmp_path / "tiktoken").iterdir()] == [file.tiktoken_name]
    assert not (tmp_path / "bpetok").exists()


def test_tiktokens_name_of_a_file_is_the_sha1_of_its_address():
    # The name under which tiktoken keeps cl100k_base.
    assert encodings.ENCODINGS["cl100k_base"].file.tiktoken_name == "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def test_a_corrupted_file_is_not_used_and_not_deleted(made_up, tmp_path):
    file = made_up()
    (tmp_path / "bpetok").mkdir()
    for path in (tmp_path / "bpetok" / file.sha256, tmp_path / "tiktoken" / file.tiktoken_name):
        path.write_bytes(RANKS.replace(b"YWI=", b"YWM="))
    with pytest.raises(bpetok.UnavailableError, match="could not be downloaded"):
        bpetok.get_encoding("made_up")
    assert (tmp_path / "tiktoken" / file.tiktoken_name).is_file()


def test_without_a_chosen_folder_the_users_own_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("BPETOK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert encodings.cache_folder().name == "bpetok"


# ---- downloading ----------------------------------------------------------------------------------------------------


def test_a_download_lands_in_the_cache_whole_and_private(made_up, server, tmp_path):
    file = made_up(server.url)
    tok = bpetok.get_encoding("made_up")
    assert (tok.encode("ab"), tok.eot_token, tok.name) == ([256], 257, "made_up")
    assert [path.name for path in (tmp_path / "bpetok").iterdir()] == [file.sha256]
    assert (tmp_path / "bpetok" / file.sha256).read_bytes() == RANKS
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "bpetok").stat().st_mode) == 0o700
    assert list((tmp_path / "tiktoken").iterdir()) == []


def test_a_second_call_does_not_download(made_up, server):
    made_up(server.url)
    first = bpetok.get_encoding("made_up")
    encodings._made.cache_clear()
    assert bpetok.get_encoding("made_up") == first
    assert server.asked == ["/made_up.tiktoken"]


def test_a_corrupted_file_is_downloaded_anew(made_up, server, tmp_path):
    file = made_up(server.url)
    (tmp_path / "bpetok").mkdir()
    (tmp_path / "bpetok" / file.sha256).write_bytes(b"broken")
    assert bpetok.get_encoding("made_up").encode("ab") == [256]
    assert (tmp_path / "bpetok" / file.sha256).read_bytes() == RANKS


def test_a_download_with_the_wrong_checksum_is_refused_and_not_kept(made_up, server, tmp_path):
    made_up(server.url)
    server.files["/made_up.tiktoken"] = RANKS + b"YWM= 257\n"
    with pytest.raises(bpetok.UnavailableError, match=r"could not be downloaded: .*hash"):
        bpetok.get_encoding("made_up")
    assert not (tmp_path / "bpetok").exists() or list((tmp_path / "bpetok").iterdir()) == []


def test_a_file_that_the_server_does_not_have_is_an_error_that_may_be_tried_again(made_up, server):
    made_up(server.url)
    contents = server.files.pop("/made_up.tiktoken")
    with pytest.raises(bpetok.UnavailableError, match="404"):
        bpetok.get_encoding("made_up")
    server.files["/made_up.tiktoken"] = contents
    assert bpetok.get_encoding("made_up").encode("ab") == [256]


def test_a_write_that_fails_leaves_no_part_in_the_cache(made_up, server, tmp_path, monkeypatch):
    made_up(server.url)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bpetok.files.os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        bpetok.get_encoding("made_up")
    assert list((tmp_path / "bpetok").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpt-4", "encoding_for_model('gpt-4') gives cl100k_base"),
        ("my.bpetok", "a tokenizer file is read by bpetok.load(path)"),
        ("o200k_bas", "did you mean 'o200k_base'?"),
    ],
)
def test_the_hint_for_an_unknown_name_is_what_was_meant(name, hint):
    with pytest.raises(bpetok.EncodingError) as caught:
        bpetok.get_encoding(name)
    assert caught.value.hint == hint
