"""What shards are exported to, read back by the loaders that the other programs' own sources define.

Those loaders are taken, unchanged, from checkouts in the folder that BPETOK_PEERS names, one each: build-nanogpt,
nanoGPT, llm.c, modded-nanogpt, Megatron-LM. datatrove is a package. Every format is also read by a few lines here, so
that what was written is known without them, too.
"""

import ast
import importlib.util
import json
import logging
import os
import random
import struct
import sys
import types
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpetok.errors import FormatError, IncompatibleError, MissingExtraError
from bpetok.shards import exporting, layout, reader

EOT = 50_256
GITHUB = {
    "build-nanogpt": "karpathy/build-nanogpt",
    "nanoGPT": "karpathy/nanoGPT",
    "llm.c": "karpathy/llm.c",
    "modded-nanogpt": "KellerJordan/modded-nanogpt",
    "Megatron-LM": "NVIDIA/Megatron-LM",
}


def texts(seed, number, top):
    draw = random.Random(seed)
    return [[draw.randrange(1, top) for _ in range(draw.choice([0, 1, 5, 40, 200]))] for _ in range(number)]


@pytest.fixture(scope="module", params=["before", "after"])
def made(request, tmp_path_factory, slow_shards):
    """Shards whose documents are cut at many borders, and the ids of those documents; "wide" ones have uint32."""
    folder = tmp_path_factory.mktemp("made") / "shards"
    top, dtype, stands = (200_000, "uint32", "before") if request.param == "wide" else (EOT, "uint16", request.param)
    documents = {"train": texts(1, 60, top), "val": texts(2, 12, top)}
    written = slow_shards(folder, documents, shard_tokens=300, dtype=dtype, end_of_text=top, stands=stands)
    assert len(list(folder.glob("train_*.bin"))) > 4 and len(list(folder.glob("val_*.bin"))) > 1
    return reader.open(folder), written


BOTH_WIDTHS = pytest.mark.parametrize("made", ["before", "after", "wide"], indirect=True)
WIDE = pytest.mark.parametrize("made", ["wide"], indirect=True)


def flat(documents):
    return list(chain.from_iterable(documents))


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- what is written -------------------------------------------------------------------------------------------------


@BOTH_WIDTHS
def test_npy_is_what_numpy_saves_shard_by_shard(made, tmp_path):
    opened, _ = made
    paths = exporting.export(opened, tmp_path / "out", to="npy")
    assert sorted(path.name for path in paths) == names(tmp_path / "out") and paths[-1].name == "meta.json"
    for name, split in opened.splits.items():
        for i, ids in enumerate(split.arrays):
            np.save(tmp_path / "expected.npy", ids)
            path = tmp_path / "out" / f"shards_{name}_{i:06d}.npy"
            assert path.read_bytes() == (tmp_path / "expected.npy").read_bytes()
            assert np.load(path).dtype == split.dtype


def test_nanogpt_is_the_bare_ids_of_a_split_and_a_meta_json(made, tmp_path):
    opened, written = made
    exporting.export(opened, tmp_path, to="nanogpt")
    assert names(tmp_path) == ["meta.json", "train.bin", "val.bin"]
    for name, documents in written.items():
        ids = flat(documents)
        assert (tmp_path / f"{name}.bin").read_bytes() == struct.pack(f"<{len(ids)}H", *ids)
    about = json.loads((tmp_path / "meta.json").read_text())
    made_of = opened.manifest
    assert about.pop("written_by").startswith("bpetok ")
    assert about == {
        "tokenizer": "none",
        "fingerprint": made_of.fingerprint,
        "vocab_size": 65_536,
        "dtype": "uint16",
        "end_of_text": EOT,
        "end_of_text_stands": made_of.end_of_text_stands,
        "splits": {name: {"ids": len(flat(one)), "documents": len(one)} for name, one in written.items()},
    }


@WIDE
def test_nanogpt_refuses_ids_of_32_bits_and_says_who_reads_them(made, tmp_path):
    with pytest.raises(IncompatibleError, match=r"(?s)must hold uint16, got uint32.*hint: npy, datatrove and parquet"):
        exporting.export(made[0], tmp_path / "out", to="nanogpt")
    assert not (tmp_path / "out").exists()


@BOTH_WIDTHS
def test_datatrove_is_the_ids_and_where_documents_end(made, tmp_path):
    opened, written = made
    exporting.export(opened, tmp_path, to="datatrove")
    width = "H" if opened.manifest.dtype == "uint16" else "I"
    for name, documents in written.items():
        back = []
        for path in sorted((tmp_path / name).glob("*.ds")):
            contents, index = path.read_bytes(), path.with_name(f"{path.name}.index").read_bytes()
            ids = struct.unpack(f"<{len(contents) // struct.calcsize(width)}{width}", contents)
            ends = struct.unpack(f"<{len(index) // 8}Q", index)
            back += [list(ids[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
            about = path.with_name(f"{path.name}.metadata").read_text().splitlines()
            assert about[:2] == [f"none|{struct.calcsize(width)}", str(len(ids))] and ends[-1] == len(ids)
        assert back == documents


@BOTH_WIDTHS
def test_parquet_has_a_row_for_each_document(made, tmp_path):
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "bpetok[data]"')
    from pyarrow import parquet

    opened, written = made
    exporting.export(opened, tmp_path, to="parquet")
    for name, documents in written.items():
        files = sorted(tmp_path.glob(f"{name}-*.parquet"))
        assert [path.name for path in files] == [
            f"{name}-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))
        ]
        tables = [parquet.read_table(path) for path in files]
        assert {str(table.schema.field("ids").type.value_type) for table in tables} == {opened.manifest.dtype}
        assert [row for table in tables for row in table["ids"].to_pylist()] == documents
        about = json.loads(tables[0].schema.metadata[b"bpetok"])
        assert about["end_of_text_stands"] == opened.manifest.end_of_text_stands


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=9), st.integers(1, 12), st.integers(1, 8))
def test_documents_come_whole_from_any_shards_in_any_pieces(tmp_path_factory, slow_shards, documents, size, at_once):
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "bpetok[data]"')
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("shards")
    written = slow_shards(folder / "in", {"train": documents}, shard_tokens=size)["train"]
    opened = reader.open(folder / "in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_IDS_AT_ONCE", at_once)
        seen = []
        for to in exporting.FORMATS:
            exporting.export(opened, folder / to, to=to, progress=seen.append)
    assert sum(seen) == len(exporting.FORMATS) * len(opened.train)
    rows = chain.from_iterable(parquet.read_table(p)["ids"].to_pylist() for p in sorted((folder / "parquet").iterdir()))
    assert list(rows) == written
    bare = (folder / "nanogpt" / "train.bin").read_bytes() if written else b""
    assert np.frombuffer(bare, "<u2").tolist() == flat(written)
    lengths = []
    for path in sorted((folder / "datatrove").rglob("*.index")):
        lengths += np.diff(np.frombuffer(path.read_bytes(), "<u8"), prepend=0).tolist()
    assert lengths == [len(one) for one in written]
    assert flat(np.load(path).tolist() for path in sorted((folder / "npy").glob("*.npy"))) == flat(written)


def test_the_third_line_of_datatroves_metadata_is_a_number_for_people():
    shown = {1: "1.00 T", 999: "999 T", 1000: "1.00 kT", 12_345: "12.3 kT", 999_999: "1.00 MT", 10**11: "100 GT"}
    assert {count: exporting._metric(count) for count in shown} == shown


# ---- what is refused, and what is left behind ------------------------------------------------------------------------


@pytest.mark.parametrize("to", exporting.FORMATS)
def test_nothing_is_written_over(made, tmp_path, to):
    paths = exporting.export(made[0], tmp_path, to=to)
    before = {path: path.read_bytes() for path in paths}
    paths[0].unlink()
    with pytest.raises(FormatError, match="must not be there yet, but is"):
        exporting.export(made[0], tmp_path, to=to)
    assert {path: path.read_bytes() for path in paths[1:]} == dict(list(before.items())[1:])
    assert len(names(tmp_path)) == len(paths) - 1


def test_a_folder_of_shards_is_no_place_to_export_to(made):
    with pytest.raises(FormatError, match="must not hold shards, but does"):
        exporting.export(made[0], made[0].folder, to="nanogpt")


def test_a_format_that_is_none_is_named_with_those_that_are(made, tmp_path):
    with pytest.raises(FormatError, match="to must be one of npy, nanogpt, datatrove, parquet, got 'arrow'"):
        exporting.export(made[0], tmp_path, to="arrow")


@pytest.mark.parametrize("to", exporting.FORMATS)
def test_an_export_that_fails_leaves_no_file(made, tmp_path, to):
    def full(amount, left=[3_000]):  # noqa: B006
        left[0] -= amount
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        exporting.export(made[0], tmp_path, to=to, progress=full)
    assert names(tmp_path) == []


def test_parquet_without_pyarrow_says_what_to_install(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"bpetok\[data\]"):
        exporting.export(made[0], tmp_path, to="parquet")


# ---- the loaders of other programs -----------------------------------------------------------------------------------


@pytest.fixture
def peer():
    """`peer(repository, file, names, **given)`: functions and classes of a file, unchanged, with the globals given."""

    def load(repository, file, wanted, **given):
        path = checkout(repository) / file
        tree = ast.parse(path.read_text())
        defined = (ast.FunctionDef, ast.ClassDef)
        tree.body = [node for node in tree.body if isinstance(node, defined) and node.name in wanted]
        assert {node.name for node in tree.body} == set(wanted), f"{path} has no longer what is asked for"
        module = types.ModuleType(path.stem)
        vars(module).update({"np": np, "os": os, "Path": Path, **given})
        exec(compile(tree, str(path), "exec"), vars(module))
        return module

    return load


def checkout(repository):
    folder = Path(os.environ.get("BPETOK_PEERS") or "peers") / repository
    if not folder.is_dir():
        get = f"git clone https://github.com/{GITHUB[repository]}"
        pytest.skip(f"needs {repository} in the folder that BPETOK_PEERS names: {get}")
    return folder


@pytest.fixture
def torch():
    """The package, where pinned memory is plain memory: a test needs no accelerator."""
    real = pytest.importorskip("torch", reason='needs torch: pip install "bpetok[lm]"')
    fake = types.SimpleNamespace(**vars(real))
    fake.empty = lambda *size, pin_memory, **more: real.empty(*size, **more)
    return fake


def test_build_nanogpt_reads_npy(made, peer, torch, tmp_path, monkeypatch):
    opened, written = made
    exporting.export(opened, tmp_path / "edu_fineweb10B", to="npy")
    monkeypatch.chdir(tmp_path)
    theirs = peer(
        "build-nanogpt", "train_gpt2.py", ["load_tokens", "DataLoaderLite"], torch=torch, master_process=False
    )
    for name, documents in written.items():
        loader = theirs.DataLoaderLite(2, 8, 0, 1, name)
        expected = [f"edu_fineweb10B/shards_{name}_{i:06d}.npy" for i in range(len(opened.splits[name].shards))]
        assert loader.shards == expected
        assert flat(theirs.load_tokens(shard).tolist() for shard in loader.shards) == flat(documents)
        x, y = loader.next_batch()
        assert (x.flatten().tolist(), y.flatten().tolist()) == (flat(documents)[:16], flat(documents)[1:17])


def test_nanogpt_reads_its_bare_files(made, peer, torch, tmp_path):
    opened, written = made
    exporting.export(opened, tmp_path, to="nanogpt")
    about = {"data_dir": tmp_path, "block_size": 32, "batch_size": 6, "device_type": "cpu", "device": "cpu"}
    theirs = peer("nanoGPT", "train.py", ["get_batch"], torch=torch, **about)
    for name, documents in written.items():
        ids = flat(documents)
        torch.manual_seed(1)
        x, y = theirs.get_batch(name)
        torch.manual_seed(1)
        places = torch.randint(len(ids) - 32, (6,)).tolist()  # as it draws them: from all ids
        assert x.tolist() == [ids[at : at + 32] for at in places]
        assert y.tolist() == [ids[at + 1 : at + 33] for at in places]


@BOTH_WIDTHS
def test_llm_c_reads_the_shards_in_python(made, peer, torch):
    opened, written = made
    script = "train_gpt2.py" if opened.manifest.dtype == "uint16" else "train_llama3.py"
    theirs = peer("llm.c", script, ["_peek_data_shard", "_load_data_shard"], torch=torch)
    for name, documents in written.items():
        paths = sorted(opened.folder.glob(f"{name}_*.bin"))
        shards = [theirs._load_data_shard(path) for path in paths]
        assert [theirs._peek_data_shard(path) for path in paths] == [len(ids) for ids in shards]
        ids, ends = flat(shard.tolist() for shard in shards), list(accumulate(map(len, documents), initial=0))
        for i, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):  # noqa: RUF007
            assert ids[begin:end] == documents[i] == opened.splits[name].document(i).tolist()


@BOTH_WIDTHS
def test_llm_c_writes_the_same_bytes(made, tmp_path, capsys, monkeypatch):
    path = checkout("llm.c") / "dev" / "data" / "data_common.py"
    monkeypatch.setitem(sys.modules, "requests", types.ModuleType("requests"))
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=None))
    theirs = module_of(path, "llm_c_data_common")
    opened, _ = made
    model = "gpt-2" if opened.manifest.dtype == "uint16" else "llama-3"
    for split in opened.splits.values():
        for shard, ids in zip(split.shards, split.arrays, strict=True):
            theirs.write_datafile(tmp_path / "theirs.bin", ids.tolist(), model)
            assert (opened.folder / shard.file).read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert "in the" in capsys.readouterr().out


def test_modded_nanogpt_reads_the_shards_and_finds_the_documents(made, peer, torch):
    import threading

    opened, written = made
    theirs = peer(
        "modded-nanogpt",
        "train_gpt.py",
        ["_load_data_shard", "Shard"],
        torch=torch,
        threading=threading,
        Tensor=torch.Tensor,
        BOS_ID=EOT,
    )
    for name, split in opened.splits.items():
        back = []
        for i, shard in enumerate(split.shards):
            tokens = theirs._load_data_shard(opened.folder / shard.file)
            found = theirs.Shard(tokens)
            found._loader_thread.join()
            back += tokens.tolist()
            if opened.manifest.end_of_text_stands == "before":
                index = split.indexes[i]
                begins = (index.pointers[shard.continues :] - layout.HEADER_BYTES) // 2
                assert found.bos_idx.tolist() == found._full_idx.tolist() == begins.tolist()
        assert back == flat(written[name])


def module_of(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STORAGE = [
    "S3Config",
    "ObjectStorageConfig",
    "cache_index_file",
    "dataset_exists",
    "get_index_cache_path",
    "get_object_storage_access",
    "is_object_storage_path",
    "parse_s3_path",
]


@pytest.fixture
def megatron(monkeypatch, torch):
    """Megatron's indexed_dataset.py; what it imports of Megatron is replaced, none of which reads local files."""
    folder = checkout("Megatron-LM") / "megatron" / "core" / "datasets"
    needed = {
        "megatron.core.datasets.object_storage_utils": dict.fromkeys(STORAGE, lambda *_: False),
        "megatron.core.msc_utils": {
            "MultiStorageClientFeature": object,
            "maybe_msc": types.SimpleNamespace(open=open, os=os),
        },
        "megatron.core.utils": {"log_single_rank": lambda logger, *_, **__: logging.getLogger(logger.name)},
    }
    needed |= {name: {} for name in ("megatron", "megatron.core", "megatron.core.datasets")}
    for name, contents in needed.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return module_of(folder / "indexed_dataset.py", "megatron_indexed_dataset")


@pytest.mark.parametrize("mmap", [True, False])
@BOTH_WIDTHS
def test_megatron_reads_the_shards_document_by_document(made, mmap, megatron):
    opened, written = made
    for name, split in opened.splits.items():
        back = []
        for shard in split.shards:
            theirs = megatron.IndexedDataset(str(opened.folder / shard.file.removesuffix(".bin")), mmap=mmap)
            assert theirs.index.dtype == (np.uint16 if split.dtype == "uint16" else np.int32)
            assert len(theirs) == shard.sequences == len(theirs.document_indices) - 1
            assert theirs.document_indices.tolist() == list(range(len(theirs) + 1))
            assert sum(theirs.sequence_lengths.tolist()) == shard.tokens
            for i in range(len(theirs)):
                ids = theirs[i].tolist()
                if i == 0 and shard.continues:
                    back[-1] += ids
                else:
                    back.append(ids)
                assert theirs.get(i, 1).tolist() == ids[1:]
            if mmap:
                assert [one.tolist() for one in theirs[:]] == [theirs[i].tolist() for i in range(len(theirs))]
        assert back == written[name]
        assert back == [split.document(i).tolist() for i in range(split.documents)]


@pytest.fixture
def datatrove():
    """datatrove's reader, and what its merger reads document ends and documents with."""
    reason = "needs datatrove: pip install datatrove"
    pytest.importorskip("datatrove", reason=reason)
    pytest.importorskip("torch", reason='needs torch: pip install "bpetok[lm]"')
    dataset = pytest.importorskip("datatrove.utils.dataset", reason=reason)
    return dataset, pytest.importorskip("datatrove.pipeline.tokens.merger", reason=reason)


@BOTH_WIDTHS
def test_datatrove_reads_the_documents_and_the_windows(made, datatrove, tmp_path):
    dataset, merger = datatrove
    opened, written = made
    exporting.export(opened, tmp_path, to="datatrove")
    size = layout.WIDTHS[opened.manifest.dtype]
    for name, documents in written.items():
        back = []
        for path in sorted((tmp_path / name).glob("*.ds")):
            with open(path, "rb") as file, open(f"{path}.index", "rb") as index:
                ends = merger.load_doc_ends(index)
                back += [
                    np.frombuffer(one, opened.manifest.dtype).tolist()
                    for one in merger.get_data_reader(file, ends, size)
                ]
        assert back == documents
        everything = dataset.DatatroveFolderDataset(str(tmp_path / name), 15, token_size=size, return_positions=True)
        expected = []
        for path in sorted((tmp_path / name).glob("*.ds")):
            ids = np.fromfile(path, opened.manifest.dtype).tolist()
            expected += [ids[at : at + 16] for at in range(0, len(ids) - 15, 16)]
        assert [everything[i]["input_ids"].tolist() for i in range(len(everything))] == expected


def test_datatrove_merges_what_was_exported(made, datatrove, tmp_path):
    _, merger = datatrove
    opened, written = made
    exporting.export(opened, tmp_path / "in", to="datatrove")
    step = merger.DocumentTokenizerMerger(
        str(tmp_path / "in" / "train"), str(tmp_path / "out"), "merged", shuffle=False, progress=False
    )
    step.run()
    ids = np.fromfile(tmp_path / "out" / "000_merged.ds", "<u2").tolist()
    assert ids == flat(written["train"])
    about = (tmp_path / "out" / "000_merged.ds.metadata").read_text().splitlines()
    ours = exporting._metric(len(ids))
    assert about == ["none|2", str(len(ids)), ours]


def test_datasets_reads_parquet_with_its_splits(made, tmp_path):
    datasets = pytest.importorskip("datasets", reason='needs datasets: pip install "bpetok[data]"')
    opened, written = made
    exporting.export(opened, tmp_path / "rows", to="parquet")
    loaded = datasets.load_dataset(str(tmp_path / "rows"), cache_dir=str(tmp_path / "cache"))
    back = {"validation": "val"}
    assert {back.get(name, name): rows["ids"][:] for name, rows in loaded.items()} == written
