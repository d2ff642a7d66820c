"""Large arrays, tables, models: memory that libraries in C, C++ and Fortran hold, with their threads."""

import hashlib

from freezing import freeze, program


@program
async def numpy_120_mb() -> None:
    import numpy as np

    generator = np.random.default_rng(7)
    array = generator.random(15_000_000)
    assert array.nbytes == 120_000_000
    view, digest = array[::1000], hashlib.blake2b(array.data).digest()
    matrix = generator.random((300, 300))
    product = matrix @ matrix.T
    for _ in range(2):
        await freeze()
        assert hashlib.blake2b(array.data).digest() == digest
        assert np.array_equal(matrix @ matrix.T, product)
    array[0] = -1
    assert view[0] == -1
    expected = np.random.default_rng(7)
    expected.random(15_000_000 + 300 * 300)
    assert generator.random() == expected.random()


@program
async def pandas_tables() -> None:
    import numpy as np
    import pandas as pd

    table = pd.DataFrame(
        {
            "day": pd.date_range("2025-01-01", periods=10_000, freq="h", tz="Europe/Berlin"),
            "shop": pd.Categorical(np.resize(["north", "south", "east"], 10_000)),
            "note": [f"note {n}" for n in range(10_000)],
            "sales": np.arange(10_000.0),
        }
    )
    grouped, copy = table.groupby("shop", observed=True), table.copy()
    chunks = iter(np.array_split(table.index, 3))
    for _ in range(2):
        next(chunks)
        await freeze()
        assert grouped.agg({"sales": "sum"})["sales"].to_dict() == {
            "north": 16668333.0,
            "south": 16661667.0,
            "east": 16665000.0,
        }
        pd.testing.assert_frame_equal(table, copy)
    assert len(next(chunks)) == 3333
    assert table["note"].str.endswith("99").sum() == 100
    assert str(table["day"].dt.tz_convert("UTC").iloc[-1]) == "2026-02-21 14:00:00+00:00"


@program
async def scikit_learn_model() -> None:
    """A model that goes on learning is in the end what it would have been without a freeze."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.linear_model import SGDClassifier

    generator = np.random.default_rng(7)
    samples, classes = generator.random((900, 8)), generator.integers(0, 3, 900)

    def learn(model: SGDClassifier, part: int) -> None:
        chosen = slice(part * 300, (part + 1) * 300)
        model.partial_fit(samples[chosen], classes[chosen], classes=[0, 1, 2])

    frozen, undisturbed = SGDClassifier(random_state=1), SGDClassifier(random_state=1)
    for part in range(3):
        learn(undisturbed, part)
    clusters = KMeans(4, random_state=1).fit(samples)  # with OpenMP threads
    labels = clusters.predict(samples)
    for part in range(3):
        learn(frozen, part)
        if part < 2:
            await freeze()
        assert np.array_equal(clusters.predict(samples), labels)
    assert np.array_equal(np.asarray(frozen.coef_), np.asarray(undisturbed.coef_))


@program
async def torch_autograd() -> None:
    """The graph of a computation is kept, and gives the gradients afterwards; optimizer and generator go on."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    twin = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    twin.load_state_dict(model.state_dict())
    samples = torch.randn(512, 64)
    optimizer, other = (torch.optim.Adam(each.parameters()) for each in (model, twin))

    def step(optimizer: torch.optim.Adam, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step(other, twin(samples).square().mean())
    for _ in range(2):
        loss = model(samples).square().mean()  # its graph hangs on it
        await freeze()
        step(optimizer, loss)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    state = torch.get_rng_state()
    drawn = torch.randn(3)
    torch.set_rng_state(state)
    assert torch.equal(torch.randn(3), drawn)


@program
async def torch_data_loader() -> None:
    """Worker processes that have prefetched, in the middle of an epoch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader, TensorDataset  # pyright: ignore[reportMissingImports]

    data = TensorDataset(torch.arange(64, dtype=torch.float32).reshape(32, 2))
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork", persistent_workers=True)
    batches = iter(loader)
    seen: list[float] = []
    for _ in range(2):
        seen += next(batches)[0].flatten().tolist()
        await freeze()
    for (batch,) in batches:
        seen += batch.flatten().tolist()
    assert seen == [float(n) for n in range(64)]
    assert sum(len(batch) for (batch,) in loader) == 32  # the same workers, another epoch
