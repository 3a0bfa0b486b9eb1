"""Train at batch size 32, measure the gradient noise, go on at 256 with hyper-parameters that fit."""

import torch
from krylearn.optim import gradient_noise_scale, scale_hyperparameters


def main(steps: int = 400) -> None:
    """Train, rescale, train; print the losses and what the rule did and why."""
    rng = torch.Generator().manual_seed(20261)
    inputs = torch.randn(8192, 20, generator=rng)
    teacher = torch.randn(20, 3, generator=rng)
    targets = (inputs @ teacher + 2.0 * torch.randn(8192, 3, generator=rng)).argmax(1)
    model, loss = torch.nn.Linear(20, 3), torch.nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def train(count: int, size: int) -> None:
        for _ in range(count):
            at = torch.randint(8192, (size,), generator=rng)
            optimizer.zero_grad()
            loss(model(inputs[at]), targets[at]).backward()
            optimizer.step()
        print(
            f"batch size {size:3d}, lr {optimizer.param_groups[0]['lr']:.3f}: loss {loss(model(inputs), targets):.4f}"
        )

    train(steps, 32)
    noise = gradient_noise_scale(model, loss, (inputs, targets), micro_batch=32)
    change = scale_hyperparameters(optimizer, old_batch=32, new_batch=256, noise_scale=noise.scale)
    print(f"lr x {change.lr:.2f}: {change.why}")
    train(steps // 8, 256)


if __name__ == "__main__":
    main()
