"""The same networks and the same reweighting steps in PyTorch, for step.py --torch.

Written as a careful PyTorch user would write them. Double backward: one forward pass on the
training batch, its gradient with `create_graph`, the clean loss at the lookahead parameters by
`torch.func.functional_call`, and a second backward pass to the example weights; the weighted update
shares the first forward pass. Forward mode: the gradient of the clean loss, the forward-mode
product of the training losses along it, and the weighted update, again of one forward pass: dual
numbers are part of PyTorch's graph.
"""

import torch
from programs import Program
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from reweight_jax.train.dispatch import STEPS_PER_DISPATCH


class LeNet(nn.Module):
    """`reweight_jax.models.lenet.LeNet` for 28x28x1 images and two classes."""

    def __init__(self):
        super().__init__()
        widths = [(1, 16), (16, 32), (32, 64)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 5, padding=2) for i, o in widths)
        self.hidden, self.out = nn.Linear(4 * 4 * 64, 100), nn.Linear(100, 1)

    def forward(self, x):
        for conv in self.convs:
            x = conv(x)
            # SAME padding of a 3x3 window with stride 2: one pixel after an even size, one a side
            # around an odd one.
            before = x.shape[-1] % 2
            x = F.pad(x, (before, 1, before, 1), value=float("-inf"))
            x = F.relu(F.max_pool2d(x, 3, 2))
        z = self.out(F.relu(self.hidden(x.flatten(1))))
        return torch.cat([torch.zeros_like(z), z], 1)


class ResNet(nn.Module):
    """`reweight_jax.models.resnet.ResNet` for 32x32x3 images."""

    def __init__(self, num_classes, blocks_per_stage, width=1, wide=False, dropout=0.0):
        super().__init__()
        self.wide, features = wide, 16
        self.stem = nn.Conv2d(3, features, 3, padding=1, bias=False)
        blocks = []
        for stage in range(3):
            for i in range(blocks_per_stage):
                new, stride = 16 * width * 2**stage, 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(features, new, stride, wide, dropout))
                features = new
        self.blocks = nn.ModuleList(blocks)
        self.norm = batch_norm(features, wide)
        self.out = nn.Linear(features, num_classes)

    def forward(self, x):
        x = self.stem(x if self.wide else 2 * x - 1)
        for block in self.blocks:
            x = block(x)
        return self.out(F.relu(self.norm(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, features_in, features, stride, wide, dropout):
        super().__init__()
        self.norm1, self.norm2 = batch_norm(features_in, wide), batch_norm(features, wide)
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.shortcut = None
        if wide and (features_in != features or stride != 1):
            self.shortcut = nn.Conv2d(features_in, features, 1, stride, bias=False)
        self.wide, self.dropout = wide, dropout
        self.stride, self.new = stride, features - features_in

    def forward(self, x):
        y = F.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        elif not self.wide and self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        if not self.wide and self.new:
            x = F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        y = F.dropout(F.relu(self.norm2(self.conv1(y))), self.dropout, self.training)
        return x + self.conv2(y)


def batch_norm(features, has_scale):
    layer = nn.BatchNorm2d(features, momentum=0.1)
    if not has_scale:
        del layer.weight
        layer.register_buffer("weight", torch.ones(features))
    return layer


NETWORKS = {
    "lenet": lambda **_: LeNet(),
    "resnet": lambda depth, width, **_: ResNet(10, (depth - 2) // 6, width),
    "wide_resnet": lambda depth, width, dropout: ResNet(10, (depth - 4) // 6, width, True, dropout),
}


def create_steps(model_config: dict, arrays, learning_rate, channels_last: bool):
    """Returns the steps "torch plain", "torch double backward" and "torch forward mode".

    Args:
      model_config: dict of its name and sizes, as in `config.model`.
      arrays: (image, label, clean image, clean label), images uint8 [n, H, W, C] in numpy.
      learning_rate: of SGD with momentum 0.9.
      channels_last: the memory format of the convolutions.

    Each step() makes one update; on a GPU it does not wait for it.
    """
    torch.backends.cudnn.benchmark = True  # XLA too looks for the fastest convolutions
    torch.backends.cuda.matmul.allow_tf32 = True  # as XLA's products; convolutions do by default
    sizes = {name: model_config[name] for name in ("depth", "width", "dropout")}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = NETWORKS[model_config["name"]](**sizes).to(device).to(memory_format=layout)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    names = [name for name, _ in model.named_parameters()]

    def losses(image, label, parameters=None):
        x = (image.float() / 255).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        arguments = (dict(zip(names, parameters, strict=True)),) if parameters else ({},)
        logits = torch.func.functional_call(model, *arguments, (x,))
        return F.cross_entropy(logits, label.long(), reduction="none")

    def update(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def plain():
        update(losses(*tensors[:2]).mean())

    def double_backward():
        image, label, clean_image, clean_label = tensors
        parameters = list(model.parameters())
        train_losses = losses(image, label)
        epsilon = torch.zeros_like(train_losses, requires_grad=True)
        gradient = torch.autograd.grad(
            (epsilon * train_losses).sum(), parameters, create_graph=True
        )
        ahead = [p - g for p, g in zip(parameters, gradient, strict=True)]
        clean_loss = losses(clean_image, clean_label, ahead).mean()
        (epsilon_gradient,) = torch.autograd.grad(clean_loss, epsilon, retain_graph=True)
        weights = torch.clamp(-epsilon_gradient, min=0)
        weights = weights / (weights.sum() + (weights.sum() == 0))
        update((weights * train_losses).sum())

    def forward_mode():
        image, label, clean_image, clean_label = tensors
        parameters = list(model.parameters())
        clean_loss = losses(clean_image, clean_label).mean()
        gradient = torch.autograd.grad(clean_loss, parameters)
        with forward_ad.dual_level():
            dual = map(forward_ad.make_dual, parameters, gradient)
            train_losses, useful = forward_ad.unpack_dual(losses(image, label, list(dual)))
            weights = torch.clamp(useful.detach(), min=0)
            weights = weights / (weights.sum() + (weights.sum() == 0))
        update((weights * train_losses).sum())

    return {
        "torch plain": plain,
        "torch double backward": double_backward,
        "torch forward mode": forward_mode,
    }


def program(step) -> Program:
    """Returns the dispatch of a step of `create_steps`: on a GPU as many steps as XLA's."""
    if not torch.cuda.is_available():
        return Program(step)

    def run():
        for _ in range(STEPS_PER_DISPATCH):
            step()
        torch.cuda.synchronize()

    return Program(run, STEPS_PER_DISPATCH)
