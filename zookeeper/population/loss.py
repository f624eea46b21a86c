"""The loss of a batch and its gradient at the logits, for all networks of a stack at once."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def loss_and_gradient(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean cross-entropy of every network, and the gradient of each at its own logits.

    On a CPU in closed form, softmax minus one-hot, with the classes as rows: a stack has few classes and many
    images, so vector instructions run over the images. Elsewhere by torch's own loss. Both agree up to rounding.

    Parameters
    ----------
    logits
        ``[M, B, K]``; what they depend on is left alone.
    labels
        Classes ``[M, B]``, int64.

    Returns
    -------
    loss
        ``[M]``, in nats; NaN where logits are NaN or infinite.
    gradient
        ``[M, B, K]``, of the sum of the losses: networks do not enter each other's.

    Examples
    --------
    >>> loss, gradient = loss_and_gradient(torch.zeros(1, 2, 4), torch.tensor([[0, 3]]))
    >>> round(loss.item(), 4), gradient[0].tolist()
    (1.3863, [[-0.375, 0.125, 0.125, 0.125], [0.125, 0.125, 0.125, -0.375]])
    """
    num_models, num_images, num_classes = logits.shape
    logits = logits.detach()
    if logits.device.type != "cpu":
        return _by_torch(logits, labels)
    by_class = logits.reshape(-1, num_classes).t().clone(memory_format=torch.contiguous_format)  # [K, M*B]
    target = labels.reshape(1, -1)
    largest = by_class.amax(0)
    picked = by_class.gather(0, target)[0]
    weights = by_class.sub_(largest).exp_()
    total = weights.sum(0)
    losses = total.log().add_(largest).sub_(picked)
    gradient = weights.mul_(total.mul_(num_images).reciprocal_())
    gradient.scatter_add_(0, target, gradient.new_full(target.shape, -1.0 / num_images))
    gradient = gradient.t().contiguous()
    return losses.view(num_models, num_images).mean(1), gradient.view(num_models, num_images, num_classes)


def _by_torch(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits.requires_grad_()
    losses = F.cross_entropy(logits.reshape(-1, logits.shape[2]), labels.reshape(-1), reduction="none")
    loss = losses.view(logits.shape[0], -1).mean(1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient
