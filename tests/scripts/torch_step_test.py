"""The networks in PyTorch that step.py is timed against are those of the project."""

import numpy as np
import pytest
from captured import build, compiled, images, outputs_of, start

torch = pytest.importorskip("torch")
torch_step = pytest.importorskip("torch_step")


@pytest.mark.parametrize("name, depth, width", [("resnet", 14, 1), ("wide_resnet", 10, 2)])
def test_the_residual_networks_of_pytorch_are_ours(name, depth, width):
    model, x = build(name, depth, width), images(6, (32, 32, 3))
    variables = start(model, (1, 32, 32, 3))
    params = variables["params"]
    theirs = torch_step.NETWORKS[name](depth=depth, width=width, dropout=0.0).train()
    blocks = [[block.shortcut, block.conv1, block.conv2] for block in theirs.blocks]
    convs = [conv for conv in [theirs.stem, *sum(blocks, [])] if conv is not None]
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        leaf.size for layer in params.values() for leaf in layer.values()
    )
    for i, conv in enumerate(convs):
        kernel = np.array(params[f"Conv_{i}"]["kernel"]).transpose(3, 2, 0, 1)
        conv.weight.data = torch.tensor(kernel)
    theirs.out.weight.data = torch.tensor(np.array(params["Dense_0"]["kernel"]).T)
    theirs.out.bias.data = torch.tensor(np.array(params["Dense_0"]["bias"]))
    expected, new = compiled(model, True)(variables, x)
    assert np.abs(outputs_of(new)["Dense_0"]).max() > 0.1
    outputs = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
