"""Reading garments and colours off images."""

import pytest
import torch

from fluxflow.metrics.garments import GarmentJudge, colour_histograms, train_classifier, words


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a photo of a grey t-shirt on a red background", ("t-shirt", "grey", "red")),
        ("a photo of a pair of navy blue trousers on a beige background", ("trousers", "navy blue", "beige")),
        ("a photo of a children's beige baby bodysuit on a black background", ("baby bodysuit", "beige", "black")),
        ("a photo of a t-shirt on a grey background", ("t-shirt", None, "grey")),
        ("a photo of an orange dress on an orange background", ("dress", "orange", "orange")),
        ("a dog", (None, None, None)),
    ],
)
def test_the_words_of_a_caption(caption, found):
    assert tuple(map(words(caption).get, ("category", "colour", "background"))) == found


def test_a_plain_image_has_one_colour():
    """Black and white lie on colours of the histogram; a grey between two levels counts for its eight neighbours."""
    plain = torch.stack([torch.full((3, 64, 64), value) for value in (-1.0, 1.0, 0.0)])
    found = colour_histograms(plain).square().unflatten(1, (3, 64))
    assert found.sum(2).allclose(torch.ones(3, 3))
    assert found[0, :, 0].allclose(torch.ones(3))
    assert found[1, :, -1].allclose(torch.ones(3))
    assert ((found[2] > 0).sum(1) == 8).all()


def test_rings_tell_the_background_from_the_middle():
    image = torch.full((1, 3, 64, 64), -1.0)
    image[:, :, 20:44, 20:44] = 1
    border, _, middle = colour_histograms(image).square().unflatten(1, (3, 64))[0]
    assert border[0] == pytest.approx(1, abs=1e-3)
    assert middle[-1] > 0.5


def test_the_classifier_learns_what_can_be_learned():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 5, generator=generator)
    names = ["high" if value > 0 else "low" for value in vectors[:, 2]]
    classifier = train_classifier(vectors, names)
    fresh = torch.randn(300, 5, generator=generator)
    right = [said == ("high" if value > 0 else "low") for said, value in zip(classifier(fresh), fresh[:, 2])]
    assert sum(right) / 300 > 0.95
    assert torch.equal(train_classifier(vectors, names).weight, classifier.weight)


def test_colours_that_are_exchanged_are_wrong():
    """Plain garments on plain backgrounds: right as they are, wrong with their colours exchanged."""
    colours = {"red": (1, -1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1), "black": (-1, -1, -1)}

    def picture(garment, background):
        image = torch.tensor(colours[background]).float()[:, None, None].expand(3, 64, 64).clone()
        image[:, 16:48, 16:48] = torch.tensor(colours[garment])[:, None, None]
        return image + 0.1 * torch.randn(3, 64, 64)

    torch.manual_seed(0)
    pairs = [(a, b) for a in colours for b in colours if a != b] * 4
    captions = [f"a photo of a {a} dress on a {b} background" for a, b in pairs]
    images, none = torch.stack([picture(a, b) for a, b in pairs]), torch.randn(len(pairs), 4)
    judge = GarmentJudge(images, none, captions)
    exchanged = torch.stack([picture(b, a) for a, b in pairs])
    for role in ("colour", "background"):
        assert judge.right(images, none, captions)[role].float().mean() > 0.95
        assert judge.right(exchanged, none, captions)[role].float().mean() < 0.05
