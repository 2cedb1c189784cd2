import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from fluxflow.checkpoint import load_model, save_model
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.pipeline import FluxFlowPipeline
from tests import pipelines, published

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers under NumPy 2


@pytest.fixture(scope="module")
def pipeline() -> FluxFlowPipeline:
    return pipelines.pipeline()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipeline: FluxFlowPipeline, prompt: str | list[str], **options: object) -> Any:
    return pipeline(prompt, **{"num_inference_steps": 3, "output_type": "pt", **options}).images


def test_saved_and_loaded_it_draws_the_same(pipeline: FluxFlowPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "run" / "model")
    loaded = FluxFlowPipeline.from_pretrained(tmp_path / "run")
    loaded.set_progress_bar_config(disable=True)
    assert dict(loaded.config) == dict(pipeline.config)
    pictures = [draw(p, ["a red dress", "blue"], generator=generators(1, 2)) for p in (pipelines.pipeline(), loaded)]
    assert torch.equal(*pictures)


def test_diffusers_finds_its_components(pipeline: FluxFlowPipeline) -> None:
    assert isinstance(pipeline, DiffusionPipeline)
    assert set(pipeline.components) == {
        "compressor", "expander", "flow_processor", "text_encoder", "tokenizer", "scheduler"
    }  # fmt: skip
    again = FluxFlowPipeline(**pipeline.components, **pipeline.parameters)
    assert again.config == pipeline.config


def test_the_same_seed_gives_the_same_picture(pipeline: FluxFlowPipeline) -> None:
    first, second = (draw(pipeline, "a red dress", generator=generators(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(pipeline, "a red dress", generator=generators(8)))


def test_a_picture_does_not_depend_on_its_neighbours(pipeline: FluxFlowPipeline) -> None:
    together = draw(pipeline, ["a red dress", "blue shirt", "a green shoe"], generator=generators(1, 2, 3))
    alone = draw(pipeline, "blue shirt", generator=generators(2))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_one_generator_draws_for_all_pictures_in_turn(pipeline: FluxFlowPipeline) -> None:
    (generator,) = generators(5)
    together = draw(pipeline, ["a red dress", "a red dress"], generator=generator)
    assert not torch.equal(together[0], together[1])
    torch.testing.assert_close(together[:1], draw(pipeline, "a red dress", generator=generators(5)), atol=1e-5, rtol=0)


def test_the_prompt_matters_and_the_empty_one_is_the_null_embedding(pipeline: FluxFlowPipeline) -> None:
    red, blue = (draw(pipeline, prompt, generator=generators(1)) for prompt in ("a red dress", "a blue shoe"))
    assert not torch.allclose(red, blue)
    guided, plain = (draw(pipeline, "", guidance_scale=scale, generator=generators(1)) for scale in (5.0, 1.0))
    torch.testing.assert_close(guided, plain, atol=1e-5, rtol=0)


def test_negative_prompts(pipeline: FluxFlowPipeline) -> None:
    default = draw(pipeline, "a red dress", generator=generators(1))
    assert torch.equal(default, draw(pipeline, "a red dress", negative_prompt="", generator=generators(1)))
    assert not torch.allclose(default, draw(pipeline, "a red dress", negative_prompt="blue", generator=generators(1)))
    each = draw(pipeline, ["a", "red"], negative_prompt=["blue", "green"], generator=generators(1, 2))
    alone = draw(pipeline, "red", negative_prompt="green", generator=generators(2))
    torch.testing.assert_close(each[1:], alone, atol=1e-5, rtol=0)


def test_pictures_of_a_prompt_stay_together(pipeline: FluxFlowPipeline) -> None:
    pictures = draw(pipeline, ["a red dress", "blue"], num_images_per_prompt=2, generator=generators(1, 2, 3, 4))
    blue = draw(pipeline, ["blue", "blue"], generator=generators(3, 4))
    assert pictures.shape[0] == 4
    torch.testing.assert_close(pictures[2:], blue, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "shape"), [(None, None, (16, 16)), (8, 24, (8, 24)), (None, 20, (16, 20))])
def test_sizes(pipeline: FluxFlowPipeline, height: int | None, width: int | None, shape: tuple[int, int]) -> None:
    assert draw(pipeline, "a red dress", height=height, width=width).shape == (1, 3, *shape)


def test_output_types_agree(pipeline: FluxFlowPipeline) -> None:
    tensor, array, (picture,) = (
        draw(pipeline, "a red dress", generator=generators(1), output_type=kind) for kind in ("pt", "np", "pil")
    )
    assert tensor.min() >= 0
    assert tensor.max() <= 1
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.asarray(picture), (array[0] * 255).round().astype(np.uint8))


def test_a_tuple_on_request(pipeline: FluxFlowPipeline) -> None:
    result = pipeline("a red dress", num_inference_steps=2, return_dict=False)
    assert isinstance(result, tuple)
    assert isinstance(result[0][0], Image.Image)


def test_latents_replace_the_noise(pipeline: FluxFlowPipeline) -> None:
    noise = torch.randn((16, pipelines.D), generator=generators(3)[0])
    given = draw(pipeline, "a red dress", latents=noise[None])
    assert torch.equal(given, draw(pipeline, "a red dress", generator=generators(3)))


def test_the_callback_sees_and_replaces_latents(pipeline: FluxFlowPipeline) -> None:
    seen = []

    def erase(pipe: FluxFlowPipeline, step: int, timestep: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((pipe, step, timestep, values["latents"].shape))
        return {"latents": torch.zeros_like(values["latents"])} if step == 2 else {}

    picture = draw(pipeline, "a red dress", callback_on_step_end=erase)
    assert seen == [(pipeline, step, t, (1, 16, pipelines.D)) for step, t in enumerate([999, 666, 332])]
    other = draw(pipeline, "blue", callback_on_step_end=erase)
    assert torch.equal(picture, other)


def test_one_negative_prompt_is_for_all_prompts(pipeline: FluxFlowPipeline) -> None:
    prompts = ["a red dress", "blue"]
    listed, alone = (
        draw(pipeline, prompts, negative_prompt=negative, generator=generators(1, 2)) for negative in (["shoe"], "shoe")
    )
    assert torch.equal(listed, alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["d", "e"]}, "2 negative prompts for 3 prompts"),
        ({"prompt": None}, "Give either prompt or prompt_embeds"),
        ({"prompt": "a", "prompt_embeds": torch.zeros(1, 12)}, "Give either prompt or prompt_embeds"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, "'noise' is none of latents"),
        ({"prompt": "a", "generator": generators(1, 2)}, "2 generators for 1 pictures"),
        ({"prompt": "a", "latents": torch.zeros(1, 4, 8)}, r"latents must have the shape \[1, 16, 8\]"),
        ({"prompt": "a", "output_type": "jpeg"}, "output_type='jpeg' is unknown; choose one of pil, pt, np"),
        ({"prompt": "a", "height": 10}, "height 10 is not a multiple of 4"),
        ({"prompt": "a", "width": 0}, "width 0 is not a multiple of 4"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps is 0: it can be 1 to 1000"),
        ({"prompt": "a", "num_inference_steps": 1001}, "num_inference_steps is 1001"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"prompt": "a", "tile": 63}, "tile is 63: it must be 64 or more"),
    ],
)
def test_arguments_that_cannot_work(pipeline: FluxFlowPipeline, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**options)


def test_without_a_training_size_one_must_be_given(pipeline: FluxFlowPipeline) -> None:
    compressor, expander = pipelines.vae()
    bare = FluxFlowPipeline(compressor, expander, pipeline.flow_processor, pipeline.text_encoder)
    with pytest.raises(ConfigError, match="give height and width"):
        bare("a red dress")


def test_a_vae_alone_cannot_draw(pipeline: FluxFlowPipeline, tmp_path: Path) -> None:
    parts = {"compressor": pipeline.compressor, "expander": pipeline.expander}
    save_model(tmp_path, **parts, **pipeline.parameters)
    with pytest.raises(
        CheckpointError, match="has no flow_processor and no text_encoder and no tokenizer: a VAE alone"
    ):
        FluxFlowPipeline.from_pretrained(tmp_path)


def test_a_published_checkpoint_draws_the_published_picture(tmp_path: Path) -> None:
    """Recorded with the published pipeline from the same latents: its 20 steps, guidance 5, its text, its times."""
    folder, words = published.write_folder(tmp_path / "run"), published.write_tokenizer(tmp_path / "words")
    theirs = FluxFlowPipeline.from_pretrained(folder, text_model=words)
    recorded = published.text_vectors()
    latents, (height, width) = recorded["in.latents"], recorded["out.picture"].shape[1:3]
    drawn = draw(theirs, "a red dress", latents=latents[:, :-1], num_inference_steps=20, height=height, width=width)
    assert float((drawn.permute(0, 2, 3, 1) - recorded["out.picture"]).abs().max()) < 1e-4


HALVES = {torch.bfloat16: 0.03, torch.float16: 0.004}  # → root of the mean squared error of pictures in [0, 1]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize("dtype", HALVES)
def test_pictures_in_half_precision_are_those_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """Cast in memory and at loading, saved and loaded again; decoded at once and in tiles."""
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(tmp_path / "model")

    def picture_of(pipe: FluxFlowPipeline, **options: Any) -> Tensor:
        return draw(pipe, "a red dress", **{"generator": generators(1), "num_inference_steps": 10, **options})

    picture, large = picture_of(pipeline), picture_of(pipeline, height=80)

    def check(half: FluxFlowPipeline, picture: Tensor = picture, **options: Any) -> None:
        half.set_progress_bar_config(disable=True)
        assert {network.dtype for network in half.components.values() if isinstance(network, torch.nn.Module)} == {
            dtype
        }
        assert half.dtype == dtype
        assert half.latent_space.mean.dtype == torch.float32
        drawn = picture_of(half, **options)
        assert drawn.dtype == torch.float32
        assert 0 < distance(drawn, picture) < HALVES[dtype]

    check(FluxFlowPipeline.from_pretrained(tmp_path / "model", torch_dtype=dtype))
    check(FluxFlowPipeline.from_pretrained(tmp_path / "model", dtype=str(dtype)), large, height=80, tile=64)
    cast = pipeline.to(dtype)  # whose captions were encoded in float32
    check(cast)
    cast.save_pretrained(tmp_path / "half")
    check(FluxFlowPipeline.from_pretrained(tmp_path / "half"))
    check(FluxFlowPipeline.from_pretrained(tmp_path / "half", torch_dtype="auto"))
    again = FluxFlowPipeline.from_pretrained(tmp_path / "half", torch_dtype=torch.float32)
    assert again.dtype == torch.float32


@pytest.mark.parametrize("part", ["flow_processor", "text_encoder", "expander", "compressor"])
def test_one_network_may_be_of_another_type(part: str, tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    picture = draw(pipeline, "a red dress", generator=generators(1))
    getattr(pipeline, part).to(torch.bfloat16)
    assert distance(draw(pipeline, "a red dress", generator=generators(1)), picture) < HALVES[torch.bfloat16]
    pipeline.save_pretrained(tmp_path)
    loaded = FluxFlowPipeline.from_pretrained(tmp_path)
    assert getattr(loaded, part).dtype == torch.bfloat16
    assert sorted(str(n.dtype) for n in loaded.components.values() if isinstance(n, torch.nn.Module)) == [
        "torch.bfloat16", *["torch.float32"] * 3
    ]  # fmt: skip


def test_types_by_name(tmp_path: Path) -> None:
    pipelines.pipeline().save_pretrained(tmp_path)
    types = {"flow_processor": torch.bfloat16, "default": "float16"}
    loaded = FluxFlowPipeline.from_pretrained(tmp_path, torch_dtype=types)
    assert (loaded.flow_processor.dtype, loaded.expander.dtype) == (torch.bfloat16, torch.float16)


def test_numbers_too_large_for_float16_are_no_black_picture() -> None:
    pipeline = pipelines.pipeline().to("cpu", torch.float16)
    with torch.no_grad():
        pipeline.expander.to_rgb_conv[0].weight.fill_(6e4)
    with pytest.raises(ConfigError, match="too large for float16: take bfloat16"):
        draw(pipeline, "a red dress")


def other() -> FluxFlowPipeline:
    torch.manual_seed(5)
    return pipelines.pipeline(seed=5)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("part", ["compressor", "expander", "flow_processor", "text_encoder"])
def test_a_part_that_is_replaced_draws_and_is_saved(part: str, tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    config = pipeline.parameters
    before = draw(pipeline, "a red dress", generator=generators(1))
    replacement = getattr(other(), part)
    setattr(pipeline, part, replacement)
    after = draw(pipeline, "a red dress", generator=generators(1))
    assert torch.equal(before, after) == (part == "compressor")
    assert pipeline.parameters == config
    pipeline.save_pretrained(tmp_path)
    loaded = FluxFlowPipeline.from_pretrained(tmp_path)
    assert same_weights(getattr(loaded, part), replacement)
    for again in (loaded, FluxFlowPipeline(**pipeline.components)):
        again.set_progress_bar_config(disable=True)
        assert torch.equal(after, draw(again, "a red dress", generator=generators(1)))
        assert again.parameters == config
    given = FluxFlowPipeline.from_pretrained(tmp_path, **{part: getattr(pipelines.pipeline(), part)})
    given.set_progress_bar_config(disable=True)
    assert torch.equal(before, draw(given, "a red dress", generator=generators(1)))


def test_another_tokenizer_makes_other_tokens(tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    red, blue = (draw(pipeline, prompt, generator=generators(1)) for prompt in ("red", "blue"))
    words = {**{word: number for number, word in enumerate(pipelines.WORDS)}}
    words["red"], words["blue"] = words["blue"], words["red"]
    pipeline.tokenizer = pipelines.tokenizer(words)
    pipeline.save_pretrained(tmp_path)
    loaded = FluxFlowPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    for swapped in (pipeline, loaded):
        assert torch.equal(blue, draw(swapped, "red", generator=generators(1)))
        assert torch.equal(red, draw(swapped, "blue", generator=generators(1)))


def test_components_make_the_same_pipeline(tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(tmp_path)
    picture = draw(pipeline, "a red dress", generator=generators(1))
    _, components = load_model(tmp_path)
    for again in (
        FluxFlowPipeline(**pipeline.components),
        FluxFlowPipeline.from_pipe(pipeline),
        FluxFlowPipeline(**components),
        DiffusionPipeline.from_pretrained(str(tmp_path)),
    ):
        assert type(again) is FluxFlowPipeline
        again.set_progress_bar_config(disable=True)
        assert again.parameters == pipeline.parameters
        assert torch.equal(picture, draw(again, "a red dress", generator=generators(1)))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler", "HeunDiscreteScheduler"])
def test_another_scheduler_draws_nearly_the_same_and_is_saved(name: str, tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    picture = draw(pipeline, "a red dress", generator=generators(1), num_inference_steps=100)
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    drawn = draw(pipeline, "a red dress", generator=generators(1), num_inference_steps=100)
    assert distance(drawn, picture) < 0.02
    pipeline.save_pretrained(tmp_path)
    for loaded in (
        FluxFlowPipeline.from_pretrained(tmp_path),
        FluxFlowPipeline.from_pretrained(tmp_path, scheduler=pipeline.scheduler),
        DiffusionPipeline.from_pretrained(tmp_path),
    ):
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded.scheduler).__name__ == name
        assert torch.equal(drawn, draw(loaded, "a red dress", generator=generators(1), num_inference_steps=100))


def test_a_stochastic_scheduler_follows_the_generator() -> None:
    pipeline = pipelines.pipeline()
    pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    first, second, third = (draw(pipeline, "a", generator=generators(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_schedulers_that_cannot_draw_are_refused_by_name(tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(tmp_path)
    matching = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline.scheduler = matching
    for use in (
        lambda: pipeline("a"),
        lambda: FluxFlowPipeline(**pipeline.components),
        lambda: FluxFlowPipeline.from_pretrained(tmp_path, scheduler=matching),
    ):
        with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler is not for velocities"):
            use()
    with pytest.raises(CheckpointError, match=r"scheduler must be a .* not a FlowMatchEulerDiscreteScheduler"):
        pipeline.save_pretrained(tmp_path)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(ConfigError, match=r"'epsilon', and it is a velocity: make it with EulerDiscreteScheduler\."):
        pipeline("a")
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"))
    with pytest.raises(CheckpointError, match="names the scheduler FlowMatchEulerDiscreteScheduler, which cannot draw"):
        FluxFlowPipeline.from_pretrained(tmp_path)


def test_latents_are_decoded_later(pipeline: FluxFlowPipeline) -> None:
    options: dict[str, Any] = {"generator": generators(1), "height": 8, "width": 24}
    picture = draw(pipeline, "a red dress", **options)
    tokens = draw(pipeline, "a red dress", **options | {"generator": generators(1), "output_type": "latent"})
    assert tokens.shape == (1, 12, pipelines.D)
    assert torch.equal(picture, pipeline.decode(tokens, 8, 24, output_type="pt"))
    with pytest.raises(ConfigError, match="latents must have the shape"):
        pipeline.decode(tokens)


def test_embeddings_in_place_of_prompts(pipeline: FluxFlowPipeline, tmp_path: Path) -> None:
    picture = draw(pipeline, "a red dress", negative_prompt="blue", generator=generators(1))
    text, null_text = pipeline.text_encoder.encode(["a red dress", "blue"]).split(1)
    options = {"prompt_embeds": text, "negative_prompt_embeds": null_text, "prompt": None}
    assert torch.equal(picture, draw(pipeline, **options, generator=generators(1)))
    pipeline.save_pretrained(tmp_path)
    bare = FluxFlowPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    bare.set_progress_bar_config(disable=True)
    assert torch.equal(picture, draw(bare, **options, generator=generators(1)))
    with pytest.raises(ConfigError, match="has no text encoder: give prompt_embeds"):
        bare("a red dress")


def test_the_callback_replaces_prompts_guides_and_stops(pipeline: FluxFlowPipeline) -> None:
    seen = []

    def change(pipe: FluxFlowPipeline, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(sorted(tensors))
        pipe._guidance_scale = 0.0
        pipe._interrupt = step == 1
        return {"prompt_embeds": tensors["negative_prompt_embeds"]}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": names}
    draw(pipeline, "a red dress", num_inference_steps=4, **options)
    assert seen == [sorted(names)] * 2
    cutoff = SDCFGCutoffCallback(cutoff_step_index=0, cutoff_step_ratio=None)
    cut = draw(pipeline, "a red dress", generator=generators(1), callback_on_step_end=cutoff)
    assert not torch.equal(cut, draw(pipeline, "a red dress", generator=generators(1)))
    assert pipeline.guidance_scale == 5.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "fp16"}, ConfigError, "holds one set of weights; choose their type by dtype="),
        ({"use_safetensors": False}, ConfigError, "asks for pickles"),
        ({"trust_remote_code": True}, ConfigError, "holds no code"),
        ({"device_map": "balanced"}, ConfigError, "name one, such as 'cuda' or 'cpu'"),
        ({"torch_dtype": "int8"}, ConfigError, "dtype='int8' is no type of weights"),
        ({"torch_dtype": torch.float16, "dtype": torch.float16}, ConfigError, "one option with two names"),
        ({"torch_dtyp": torch.float16}, TypeError, "unexpected keyword argument 'torch_dtyp'"),
    ],
)
def test_what_from_pretrained_refuses(
    pipeline: FluxFlowPipeline, tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(error, match=message):
        FluxFlowPipeline.from_pretrained(tmp_path, **options)


def test_what_diffusers_users_also_type(pipeline: FluxFlowPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(str(tmp_path), safe_serialization=True)
    options = {"local_files_only": True, "use_safetensors": True, "variant": None, "device_map": "cpu"}
    loaded = FluxFlowPipeline.from_pretrained(pretrained_model_name_or_path=str(tmp_path), **options)
    loaded.set_progress_bar_config(disable=True)
    loaded.enable_attention_slicing()
    loaded.enable_vae_tiling()
    picture = draw(pipeline, "a red dress", generator=generators(1))
    assert torch.equal(picture, draw(loaded.to("cpu", torch.float32), "a red dress", generator=generators(1)))
    with pytest.raises(ConfigError, match="would write pickles"):
        loaded.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ConfigError, match=r"take enable_model_cpu_offload\(\)"):
        loaded.enable_sequential_cpu_offload()
    if find_spec("accelerate") is None:
        with pytest.raises(ImportError, match="accelerate"):
            loaded.enable_model_cpu_offload()
    with pytest.raises(TypeError, match="clip_skip"):
        loaded("a red dress", clip_skip=1)


def test_a_prompt_beyond_the_window_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = pipelines.pipeline()
    long = " ".join(["red"] * 16 + ["blue", "dress"])
    for _ in range(2):
        cut = draw(pipeline, ["a", long], negative_prompt=long + " shoe", generator=generators(1, 2))
    assert [record.getMessage() for record in caplog.records] == [
        "A prompt is longer than 16 tokens; this does not count: blue dress",
        "A prompt is longer than 16 tokens; this does not count: blue dress shoe",
    ]
    again = draw(pipeline, ["a", " ".join(["red"] * 16)], negative_prompt=long, generator=generators(1, 2))
    assert torch.equal(cut, again)
    assert len(caplog.records) == 2


def test_it_keeps_the_networks_as_they_are() -> None:
    parts = {**pipelines.pipeline().components}
    parts["flow_processor"].train()
    assert FluxFlowPipeline(**parts).flow_processor is parts["flow_processor"]
    assert parts["flow_processor"].training


def test_the_arguments_are_those_of_diffusers_and_tile() -> None:
    names = list(inspect.signature(FluxFlowPipeline.__call__).parameters)
    assert names[1:] == [
        "prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale",
        "num_images_per_prompt", "generator", "latents", "output_type", "return_dict", "callback_on_step_end", "tile",
        "eta", "prompt_embeds", "negative_prompt_embeds", "callback_on_step_end_tensor_inputs",
    ]  # fmt: skip
