"""Sink tokens: in all layers of a cell or in none, whatever the number of passes."""

import torch
from torch import Tensor

from pipeline.geometry import LayerMoments, MomentStream, SinkStream

ROWS, GROUP = 5000, torch.arange(5000) // 2500
FIRST = torch.arange(ROWS) % 50 == 0


def layers() -> list[Tensor]:
    """Return an embedding, two blocks and a final norm: tokens 7 and 4001 are long in one block each, 9 in the norm."""
    g = torch.Generator().manual_seed(0)
    states = [torch.nn.functional.normalize(torch.randn(ROWS, 16, generator=g)) for _ in range(4)]
    for layer, token, multiple in ((1, 7, 8.5), (2, 7, 7.5), (2, 4001, 30.0), (0, 8, 30.0), (3, 9, 30.0)):
        states[layer][token] *= multiple
    return states


BLOCKS = [False, True, True, False]
SINKS = FIRST | torch.isin(torch.arange(ROWS), torch.tensor([7, 4001]))


def stream_all(chosen: list[int], sinks: Tensor | None = None) -> list[LayerMoments]:
    stream = MomentStream([16] * len(chosen), [2500, 2500], 8.0, None, "cpu", [BLOCKS[i] for i in chosen], sinks)
    return feed(stream, chosen).finish()


def feed(stream: MomentStream | SinkStream, chosen: list[int]) -> MomentStream | SinkStream:
    states = layers()
    for start in range(0, ROWS, 700):
        part = slice(start, start + 700)
        for slot, layer in enumerate(chosen):
            stream.add_states(slot, states[layer][part])
        stream.end_batch(FIRST[part], GROUP[part])
    return stream


def test_a_token_is_a_sink_in_all_layers_or_in_none() -> None:
    """A token at 8.5 medians in one block and 7.5 in another is left out of both; the other states decide nothing."""
    states = layers()
    for layer, moments in enumerate(stream_all([0, 1, 2, 3])):
        assert moments.sink_sums.count == int(SINKS.sum())
        expected = states[layer][~SINKS].double().T.cov()
        torch.testing.assert_close(moments.ordinary.pooled.covariance(), expected, rtol=1e-10, atol=1e-12)


def test_each_layer_counts_its_own_long_tokens() -> None:
    counts = [moments.n_layer_sinks - int(FIRST.sum()) for moments in stream_all([0, 1, 2, 3])]
    assert counts == [1, 1, 1, 1]


def test_layers_in_several_passes_have_the_sinks_of_all() -> None:
    """The mask of a first pass over all layers gives the bytes of a single pass."""
    sinks = feed(SinkStream([16] * 4, [2500, 2500], BLOCKS, 8.0), [0, 1, 2, 3]).finish()
    assert torch.equal(sinks, SINKS)
    single = stream_all([0, 1, 2, 3])
    several = [*stream_all([0, 1], sinks), *stream_all([2, 3], sinks)]
    for one, other in zip(single, several, strict=True):
        assert torch.equal(one.ordinary.pooled.scatter, other.ordinary.pooled.scatter)
        assert torch.equal(one.sink_sums.shifted_sum, other.sink_sums.shifted_sum)
        assert one.n_layer_sinks == other.n_layer_sinks
