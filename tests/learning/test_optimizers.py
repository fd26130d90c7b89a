"""Each optimiser against torch.optim's own, on one sequence of gradients."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dqn_runner.learning.optimizers import SGD, Adam, AdamW, OptimizerSpec, RMSprop

SIZE = 20


def gradients(steps, dtype=torch.float64):
    """Gradients of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-4, 2, SIZE, dtype=torch.float64)
    scale[3] = 0
    grads = torch.randn(steps, SIZE, generator=generator, dtype=torch.float64) * scale
    grads[steps // 2 :, 5] = 0
    return grads.to(dtype)


def start(dtype=torch.float64):
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        dtype
    )


def ours(spec, lr, grads):
    """The parameters [steps, P] after each step."""
    params = start(grads.dtype)
    slots = tuple(params.new_zeros(spec.num_slots, SIZE))
    hyper = {"lr": lr, **spec.hyperparameters()}
    hyper = {name: params.new_tensor(value) for name, value in hyper.items()}
    path = []
    for count, grad in enumerate(grads, start=1):
        params, slots = spec.step(params, grad, slots, params.new_tensor(count), hyper)
        assert [row.shape for row in slots] == spec.num_slots * [(SIZE,)]
        path.append(params)
    return torch.stack(path)


def torchs(optimizer_class, lr, settings, grads):
    parameter = torch.nn.Parameter(start(grads.dtype))
    optimizer = optimizer_class([parameter], lr=lr, **settings)
    path = []
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


CASES: list[tuple[type, type, dict[str, Any]]] = [
    (Adam, torch.optim.Adam, {}),
    (Adam, torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {"amsgrad": True}),
    (Adam, torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.01, "betas": (0.5, 0.9)}),
    (AdamW, torch.optim.AdamW, {}),
    (AdamW, torch.optim.AdamW, {"weight_decay": 0.3}),
    (AdamW, torch.optim.AdamW, {"weight_decay": 0.0}),
    (AdamW, torch.optim.AdamW, {"amsgrad": True}),
    (RMSprop, torch.optim.RMSprop, {}),
    (RMSprop, torch.optim.RMSprop, {"alpha": 0.95, "eps": 0.01, "weight_decay": 0.1}),
    (RMSprop, torch.optim.RMSprop, {"momentum": 0.9}),
    (RMSprop, torch.optim.RMSprop, {"centered": True, "alpha": 0.95, "eps": 0.01}),
    (RMSprop, torch.optim.RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.01}),
    (SGD, torch.optim.SGD, {}),
    (SGD, torch.optim.SGD, {"weight_decay": 0.1}),
    (SGD, torch.optim.SGD, {"momentum": 0.9}),
    (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, torch.optim.SGD, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.05}),
]


@pytest.mark.parametrize(
    ("spec_class", "optimizer_class", "settings"),
    CASES,
    ids=[f"{case[0].__name__}-{'-'.join(case[2]) or 'plain'}-{i}" for i, case in enumerate(CASES)],
)
def test_a_thousand_steps_equal_those_of_torch(spec_class, optimizer_class, settings):
    grads = gradients(1000)
    actual = ours(spec_class(**settings), 0.01, grads)
    expected = torchs(optimizer_class, 0.01, settings, grads)
    assert expected.isfinite().all()
    assert (actual - expected).abs().max() < 1e-9 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("spec_class", [Adam, AdamW, RMSprop, SGD])
def test_defaults_are_those_of_torch(spec_class):
    """Where a setting is left out, torch's own default stands."""
    theirs = getattr(torch.optim, spec_class.__name__)([torch.zeros(1)], lr=1.0).defaults
    for name, value in spec_class().model_dump(exclude={"name"}).items():
        assert value == theirs[name]


@pytest.mark.parametrize("spec_class", [Adam, AdamW])
def test_the_first_step_of_adam_is_lr_in_single_precision(spec_class):
    """Bias correction at count 1 makes both moments the gradient's own: a step of lr · sign."""
    grads = torch.tensor([1e-3, -0.5, 40.0, -1e4] * 5).unsqueeze(0)
    moved = start(torch.float32) - ours(spec_class(weight_decay=0.0), 0.25, grads)[0]
    assert torch.allclose(moved, 0.25 * grads[0].sign(), rtol=1e-4)


@pytest.mark.parametrize(
    ("spec_class", "optimizer_class", "settings"), CASES[::3], ids=lambda case: str(case)[:30]
)
def test_single_precision_stays_near_double(spec_class, optimizer_class, settings):
    grads = gradients(300).clamp(-1, 1)
    expected = torchs(optimizer_class, 0.01, settings, grads)
    actual = ours(spec_class(**settings), 0.01, grads.float())
    assert torch.allclose(actual.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec_class", [Adam, AdamW, RMSprop, SGD])
def test_parameters_without_a_gradient_stay_where_they_are(spec_class):
    path = ours(spec_class(weight_decay=0.0), 0.1, torch.zeros(10, SIZE, dtype=torch.float64))
    assert torch.equal(path, start().expand(10, SIZE))


def test_null_stands_for_the_default_and_foreign_settings_are_refused():
    parse = TypeAdapter(OptimizerSpec).validate_python
    everything = {"betas": None, "alpha": None, "momentum": 0.9, "nesterov": None, "eps": None}
    assert parse({"name": "sgd", **everything}) == SGD(momentum=0.9)
    with pytest.raises(ValidationError, match="momentum"):
        parse({"name": "adam", **everything})


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "adam", "betas": (0.9, 1.0)},
        {"name": "adam", "eps": 0.0},
        {"name": "adamw", "weight_decay": -0.1},
        {"name": "rmsprop", "alpha": 1.5},
        {"name": "sgd", "momentum": 1.0},
        {"name": "adagrad"},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(OptimizerSpec).validate_python(settings)
