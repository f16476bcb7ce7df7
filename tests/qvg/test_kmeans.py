"""k-means: what it finds, that it repeats, and that it keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qvg.ops.kmeans import assigned, kmeans
from qvg.ops.kmeans import reference as kmeans_reference
from qvg.ops.kmeans.reference import stride_of


def blobs(seed: int, tokens: int = 300, clusters: int = 5) -> tuple[Tensor, Tensor]:
    """Well separated clusters [1, 2, S, 16] and each token's blob [1, 2, S]."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(1, 2, clusters, 16, generator=generator)
    blob = torch.randint(clusters, (1, 2, tokens), generator=generator)
    x = centres.gather(2, blob.unsqueeze(-1).expand(-1, -1, -1, 16))
    return x + 0.1 * torch.randn(x.shape, generator=generator), blob


@pytest.mark.parametrize("seed", range(5))
def test_separated_clusters_are_found(seed: int) -> None:
    x, blob = blobs(seed)
    found = kmeans(x, clusters=5, iterations=2, seed=seed)
    for head in range(2):
        pairs = {(int(a), int(b)) for a, b in zip(found.labels[0, head], blob[0, head], strict=True)}
        assert len(pairs) == 5
    error = (x - assigned(found)).square().mean().sqrt()
    assert error < 0.15


def test_centroids_are_means_and_labels_nearest() -> None:
    x = torch.randn(2, 3, 200, 8, generator=torch.Generator().manual_seed(1))
    found = kmeans(x, clusters=7, iterations=40, seed=0)
    distances = torch.cdist(x, found.centroids.float())
    assert torch.equal(found.labels.long(), distances.argmin(-1))
    for batch in range(2):
        for head in range(3):
            for cluster in range(7):
                members = x[batch, head][found.labels[batch, head] == cluster]
                expected = members.mean(0)
                torch.testing.assert_close(
                    found.centroids[batch, head, cluster].float(), expected, atol=0.01, rtol=0.01
                )


def test_chunks_do_not_change_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(0)
    whole = kmeans(x, clusters=16, iterations=2, seed=0)
    monkeypatch.setattr(kmeans_reference, "DISTANCES_PER_CHUNK", 2 * 16 * 7)
    pieces = kmeans(x, clusters=16, iterations=2, seed=0)
    assert torch.equal(whole.labels, pieces.labels)


def test_it_repeats_and_leaves_the_global_generator_alone() -> None:
    x, _ = blobs(2)
    state = torch.get_rng_state()
    first, second = (kmeans(x, clusters=16, iterations=3, seed=0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, kmeans(x, clusters=16, iterations=3, seed=1).centroids)


def test_more_clusters_than_tokens() -> None:
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(3))
    found = kmeans(x, clusters=256, iterations=2, seed=0)
    assert found.centroids.shape == (1, 2, 5, 8)
    assert torch.equal(assigned(found), x.bfloat16().float())


def test_a_cluster_that_is_empty_restarts_at_the_farthest_token() -> None:
    x = torch.zeros(1, 1, 10, 4)
    x[0, 0, 7] = 5.0
    x[0, 0, 3] = -3.0
    start = torch.tensor([0.0, 100.0, 200.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    found = kmeans(x, clusters=3, iterations=2, seed=0, start=start)
    assert torch.equal(assigned(found), x)


def test_centroids_that_share_a_cluster_move_to_new_content() -> None:
    generator = torch.Generator().manual_seed(6)
    centres = 10 * torch.randn(1, 1, 16, 32, generator=generator)
    x = centres.repeat_interleave(20, dim=2) + 0.1 * torch.randn(1, 1, 320, 32, generator=generator)
    # Two centroids too many in the first cluster, none in the last two.
    start = centres.clone()
    start[:, :, 14:] = centres[:, :, :1] + 0.1 * torch.randn(1, 1, 2, 32, generator=generator)
    found = kmeans(x, clusters=16, iterations=1, seed=0, start=start)
    assert (x - assigned(found)).square().mean().sqrt() < 0.15


def test_streaming_starts_where_it_is_told() -> None:
    x, _ = blobs(4)
    start = kmeans(x, clusters=5, iterations=5, seed=0).centroids
    warm = kmeans(x + 0.01, clusters=5, iterations=1, seed=99, start=start)
    assert (warm.centroids.float() - start.float()).abs().max() < 0.2
    with pytest.raises(ValueError, match="start is"):
        kmeans(x, clusters=6, iterations=1, seed=0, start=start)


def spans(seed: int, drift: float, cut: int | None) -> Iterator[Tensor]:
    """Six spans [1, 2, 1600, 64] of eight frames over 200 places that drift; new content from `cut` on."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.zeros(1, 2, 200, 64)
    for number in range(6):
        if number in (0, cut):
            prototypes = torch.randn(1, 2, 40, 64, generator=generator)
            which = torch.randint(40, (1, 2, 200, 1), generator=generator).expand_as(field)
            field = prototypes.gather(2, which) + 0.4 * torch.randn(field.shape, generator=generator)
        frames = []
        for _ in range(8):
            field = field + drift * torch.randn(field.shape, generator=generator)
            frames.append(field + 0.3 * torch.randn(field.shape, generator=generator))
        yield torch.cat(frames, dim=2)


@pytest.mark.parametrize(
    ("drift", "cut"), [(0.0, None), (0.1, None), (0.02, 3)], ids=["still", "drift", "cut"]
)
def test_two_warm_rounds_reach_what_ten_reach_cold(drift: float, cut: int | None) -> None:
    ratios = torch.zeros(6)
    for seed in range(3):
        warm = None
        for number, x in enumerate(spans(seed, drift, cut)):
            warm = kmeans(x, 64, 2, 0, None if warm is None else warm.centroids)
            cold = kmeans(x, 64, 10, 0)
            errors = ((x - assigned(each)).square().mean() for each in (warm, cold))
            ratios[number] += next(errors) / next(errors) / 3
    # The first span has nothing to begin with, and the first after a cut nothing that suits it.
    for number in (0, cut):
        if number is not None:
            assert ratios[number] < 1.1
            ratios[number] = 0
    # Seen: at most 1.003.
    assert ratios.max() < 1.01


def test_long_spans_are_learned_from_some_of_their_tokens() -> None:
    assert (stride_of(1000, 5), stride_of(1000, 64), stride_of(37_440, 256)) == (6, 1, 4)
    x, _ = blobs(5, tokens=1000)
    few = kmeans(x, clusters=5, iterations=2, seed=0)
    errors = (x - assigned(few)).square().mean(dim=(2, 3)).sqrt()
    assert few.labels.shape == (1, 2, 1000) and errors.max() < 0.12  # of tokens that scatter by 0.1


def test_equal_tokens() -> None:
    x = torch.full((1, 2, 40, 8), 1.5)
    found = kmeans(x, clusters=16, iterations=2, seed=0)
    assert torch.equal(assigned(found), x)
