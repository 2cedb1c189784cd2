"""One optimizer step of each stage by the book: gradients of every rank and batch, averaged, and plain descent.

The draws are those that the design names: a generator a seed, rank, step and batch of the step.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from fluxflow.training import FlowLitModule, VAELitModule
from fluxflow.training.randomness import step_generator
from tests.pipelines import D

Shares = list[list[dict[str, Any]]]  # the batches of one step: [rank][batch]


def descend(parameters: list[nn.Parameter], losses: list[Tensor], rate: float) -> None:
    """One step against the gradient of the mean of `losses`."""
    gradients = torch.autograd.grad(torch.stack(losses).mean(), parameters, materialize_grads=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= rate * gradient


def signed(batch: dict[str, Any]) -> Tensor:
    return batch["image"].float() / 127.5 - 1


def vae_step(
    module: VAELitModule, shares: Shares, step: int, *, rates: tuple[float, float], gan_weight: float, beta: float
) -> None:
    """Discriminator, then generator, in place. A generator loss is taken when its batch comes, so that only those of
    the last batch see the new discriminator."""
    space, critic = module.latent_space, module.discriminator
    generator = [parameter for parameter in space.parameters() if parameter.requires_grad]
    last = len(shares[0]) - 1
    critic_losses, losses = [], []
    for micro in range(last + 1):
        seen = []
        for rank, share in enumerate(shares):
            real = signed(share[micro])
            noise = step_generator("cpu", module.seed, rank, step, micro)
            eps = torch.randn(len(real), D, 4, 4, generator=noise)
            packed, mu, logvar = space.compressor(real, training=True, eps=eps)
            fake, context = space.expander(packed), packed[:, :-1].mean(dim=1).detach()
            seen.append((real, fake, context))
            error = fake - real
            kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean()
            losses.append(error.abs().mean() + module.mse_weight * (error**2).mean() + beta * kl)
            critic_losses.append(critic_loss(module, real, fake.detach(), context, step))
        if micro == last:
            descend(list(critic.parameters()), critic_losses, rates[1])
        offset = len(losses) - len(seen)
        for index, (_, fake, context) in enumerate(seen):
            verdict = critic(fake, context) if micro == last else frozen(critic, fake, context)
            losses[offset + index] = losses[offset + index] - gan_weight * verdict.mean()
    descend(generator, losses, rates[0])


def frozen(critic: nn.Module, fake: Tensor, context: Tensor) -> Tensor:
    """The verdict of the discriminator as it is now, whatever becomes of its weights before the backward."""
    now = {name: tensor.detach().clone() for name, tensor in critic.state_dict().items()}
    return torch.func.functional_call(critic, now, (fake, context))


def critic_loss(module: VAELitModule, real: Tensor, fake: Tensor, context: Tensor, step: int) -> Tensor:
    """½·E[max(0, 1 − D(x))] + ½·E[max(0, 1 + D(x̂))], and every so many steps that many times γ/2·E‖∇D(x)‖²."""
    on_real, on_fake = module.discriminator(real, context), module.discriminator(fake, context)
    loss = 0.5 * (1 - on_real).clamp(min=0).mean() + 0.5 * (1 + on_fake).clamp(min=0).mean()
    if step % module.r1_every == 0:
        loss = loss + module.r1_every * module.r1_gamma * r1(module, real, context)
    return loss


def r1(module: VAELitModule, real: Tensor, context: Tensor) -> Tensor:
    """½·E‖∇D(x)‖², image by image."""
    squares = []
    for index in range(len(real)):
        image = real[index : index + 1].detach().requires_grad_(True)
        verdict = module.discriminator(image, context[index : index + 1]).mean()
        squares.append(torch.autograd.grad(verdict, image, create_graph=True)[0].square().sum())
    return 0.5 * torch.stack(squares).mean()


def alpha_sigma() -> tuple[Tensor, Tensor]:
    """α and σ of every timestep, from diffusers."""
    schedule = DDPMScheduler(1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return schedule.alphas_cumprod.sqrt(), (1 - schedule.alphas_cumprod).sqrt()


def flow_step(module: FlowLitModule, shares: Shares, step: int, *, rate: float) -> None:
    """One step of the flow and the text projection, in place; module.min_snr_gamma must be set."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    losses = []
    for rank, share in enumerate(shares):
        for micro, batch in enumerate(share):
            generator = step_generator("cpu", module.seed, rank, step, micro, "flow")
            count = len(batch["caption"])
            keep = torch.rand(count, generator=generator) >= module.caption_dropout
            captions = [caption if kept else "" for caption, kept in zip(batch["caption"], keep, strict=True)]
            times = module.time_sampling(count, generator)
            eps = torch.randn(count, D, 4, 4, generator=generator)
            tokens = module.latent_space.encode(signed(batch), eps).detach()
            z0, size = tokens[:, :-1], tokens[:, -1:]
            noise = torch.randn(z0.shape, generator=generator)
            alpha, sigma = (table[times][:, None, None] for table in alpha_sigma())
            noised = torch.cat([alpha * z0 + sigma * noise, size], dim=1)
            predicted = module.flow_processor(noised, module.text_encoder.encode(captions), times / 999)[:, :-1]
            error = ((predicted - (alpha * noise - sigma * z0)) ** 2).mean(dim=(1, 2))
            snr = (alpha**2 / sigma**2).flatten()
            assert module.min_snr_gamma is not None
            losses.append((error * snr.clamp(max=module.min_snr_gamma) / (snr + 1)).mean())
    descend(trained, losses, rate)
