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

    def __init__(self, num_classes, blocks_per_stage, width=1, preactivation=False, dropout=0.0):
        super().__init__()
        widths = [16] + [16 * width * 2**stage for stage in range(3)]
        self.preactivation = preactivation
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[-1] if preactivation else 16, momentum=0.1)
        blocks = []
        for stage in range(3):
            for i in range(blocks_per_stage):
                features_in = widths[stage] if i == 0 else widths[stage + 1]
                stride = 2 if stage > 0 and i == 0 else 1
                sizes = (features_in, widths[stage + 1], stride)
                blocks.append(WideBlock(*sizes, dropout) if preactivation else PlainBlock(*sizes))
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Linear(widths[-1], num_classes)

    def forward(self, x):
        x = self.stem(x)
        if not self.preactivation:
            x = F.relu(self.norm(x))
        for block in self.blocks:
            x = block(x)
        if self.preactivation:
            x = F.relu(self.norm(x))
        return self.out(x.mean((2, 3)))


class PlainBlock(nn.Module):
    def __init__(self, features_in, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.stride, self.more = stride, features - features_in

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.more:  # strided, and zeros for the channels that the input lacks
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(x + y)


class WideBlock(nn.Module):
    def __init__(self, features_in, features, stride, dropout):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(features_in), nn.BatchNorm2d(features)
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.shortcut = None
        if features_in != features or stride != 1:
            self.shortcut = nn.Conv2d(features_in, features, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x):
        y = F.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = F.dropout(F.relu(self.norm2(self.conv1(y))), self.dropout, self.training)
        return x + self.conv2(y)


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
