import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from fluxflow.checkpoint import save_model
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
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
    bare = FluxFlowPipeline(**pipeline.components)
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


def test_moving_and_casting() -> None:
    pipeline = pipelines.pipeline().to(dtype=torch.bfloat16)
    assert pipeline.dtype == pipeline.latent_space.mean.dtype == torch.bfloat16
    assert pipeline.device.type == "cpu"


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
    ]  # fmt: skip
