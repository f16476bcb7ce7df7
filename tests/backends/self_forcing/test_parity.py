"""Our transformer, sampler and cache against what the authors' classes computed: see `recorded.py`."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from backends.self_forcing.sampler import SIGMAS, CachedHistory, Sampler
from backends.self_forcing.spec import SPEC
from backends.self_forcing.transformer import WanConfig
from backends.wan import schedule
from qvg import BF16, CacheGeometry, CachePolicy, KVCache
from qvg.codecs.identity import BF16Codec
from qvg.device import Choice
from qvg.payload import BF16Payload
from qvg.rope import grid_rope
from tests.backends.self_forcing.recorded import COLUMNS, CONFIG, ROWS, SIZE, model, recorded

TIMES = (1000.0, 937.5, 2500 / 3, 625.0)
TOKENS = ROWS * COLUMNS  # of a frame


@pytest.fixture
def exact(monkeypatch):
    """Reads the cache in FP32, whatever this CPU is best at, and keeps encoded spans as they come."""

    class Keeping(BF16Codec):
        def encode(self, x, warm=None):
            return BF16Payload(x.clone(), x.dtype)

    monkeypatch.setattr(
        "qvg.cache.choose", lambda device, head_dim: Choice(torch.float32, "math", "for comparison")
    )
    monkeypatch.setattr("qvg.cache.build_codec", lambda codec, tensor: Keeping())


@pytest.fixture(scope="module")
def transformer():
    return model()


@pytest.fixture(scope="module")
def text(transformer):
    with torch.inference_mode():
        return transformer.read(recorded("context"))


def make_cache(policy=None):
    geometry = CacheGeometry(CONFIG.layers, CONFIG.heads, CONFIG.head_dim, TOKENS)
    policy = policy or CachePolicy(every=2)
    return KVCache(geometry, BF16, policy, frames_per_block=SIZE[0], dtype=torch.float32)


def make_rope():
    return grid_rope(1024, ROWS, COLUMNS, CONFIG.rope_pairs)


def kept(cache, layer):
    """Keys before rotation and values [H, F, P, D] of everything the cache holds."""
    pieces = list(cache.layer(layer).pieces(torch.float32))
    return tuple(
        torch.cat([getattr(piece, name) for piece in pieces], 2)[0].unflatten(1, (-1, TOKENS))
        for name in ("k", "v")
    )


def assert_close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_the_schedule_is_upstreams():
    assert torch.equal(schedule.sigma_table(5.0), recorded("schedule/sigmas"))
    assert torch.equal(schedule.sigma_table(5.0) * 1000, recorded("schedule/table"))
    assert torch.equal(torch.stack(SIGMAS) * 1000, recorded("schedule/warped"))
    assert pytest.approx(TIMES) == recorded("schedule/warped").tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("sigma", SIGMAS, ids=lambda sigma: f"{float(sigma):.3f}")
def test_clean_latents_and_new_noise_are_upstreams_to_the_bit(sigma, dtype):
    name = f"{str(dtype).removeprefix('torch.')}@{float(sigma) * 1000:.4f}"
    noisy, flow, noise = (recorded(f"schedule/{part}").to(dtype) for part in ("xt", "flow", "noise"))
    clean = schedule.clean_latents(noisy, flow, sigma)
    assert clean.dtype == dtype
    assert torch.equal(clean, recorded(f"schedule/x0/{name}"))
    again = schedule.add_noise(noisy, noise, sigma)
    assert again.dtype == dtype
    assert torch.equal(again, recorded(f"schedule/renoised/{name}"))


def test_time_embeddings(transformer):
    time, condition = transformer.times(recorded("times/t"))
    assert_close(time[0], recorded("times/e"), 1e-6)
    assert_close(condition, recorded("times/e0"), 1e-6)


@pytest.mark.parametrize(("suffix", "atol"), [("", 1e-6), ("_bf16", 0)], ids=["float32", "bfloat16"])
def test_keys_kept_before_rotation_rotate_to_upstreams(suffix, atol):
    before, after = (recorded(f"rope/{name}{suffix}").transpose(1, 2) for name in ("before", "after"))
    assert_close(make_rope()(before, 0), after, atol)


@torch.inference_mode()
def test_two_blocks_of_five_passes(transformer, text, exact):
    cache, rope = make_cache(), make_rope()
    history = CachedHistory(cache, rope)
    for block in range(2):
        for step, t in enumerate(recorded("blocks/t")):
            place = 5 * block + step
            flow = transformer(recorded("blocks/x")[place, None], t.expand(1, SIZE[0]), text, history)
            assert_close(flow[0], recorded("blocks/flow")[place], 2e-5)
        cache.commit()
    for layer in range(CONFIG.layers):
        k, v = kept(cache, layer)
        k = rope(k.flatten(1, 2)[None], 0)[0].unflatten(1, (-1, TOKENS))
        for name, ours in (("k", k), ("v", v)):
            theirs = recorded(f"blocks/{name}{layer}")[0].permute(2, 0, 1, 3)
            assert_close(ours[:, [2, 5]], theirs, 2e-5)


@torch.inference_mode()
def test_cached_blocks_are_one_block_causal_pass(transformer, text, exact):
    cache = make_cache()
    history = CachedHistory(cache, make_rope())
    x, t = recorded("causal/x"), recorded("causal/t")
    flows = []
    for block in range(4):
        frames = slice(3 * block, 3 * block + 3)
        flows.append(transformer(x[:, frames], t[:, frames], text, history))
        cache.commit()
    assert_close(torch.cat(flows, 1), recorded("causal/masked"), 1e-5)
    assert_close(torch.cat(flows, 1), recorded("causal/cached"), 1e-5)


def flows_of_five_blocks(transformer, text, history, commit):
    made = []
    for x in recorded("window/x"):
        made.append(transformer(x[None], torch.full((1, 3), 937.5), text, history)[0])
        transformer(x[None], torch.zeros(1, 3), text, history, output=False)
        commit()
    return torch.stack(made)


@pytest.mark.parametrize(
    ("name", "sink"), [("window6_sink0", 0), ("window9_sink3", 1)], ids=["6 frames", "9 with 3 sinks"]
)
@torch.inference_mode()
def test_rolling_windows_and_sinks(transformer, text, exact, name, sink):
    """Upstream counts frames, sinks and the block in progress included."""

    def gap(policy):
        cache = make_cache(policy)
        history = CachedHistory(cache, make_rope())
        flows = flows_of_five_blocks(transformer, text, history, cache.commit)
        return (flows - recorded(f"window/{name}/flow")).abs().max()

    assert gap(CachePolicy(every=1, sink=sink, window=1)) < 2e-5
    assert gap(CachePolicy(every=1, sink=sink, window=2)) > 1e-2


class Frames:
    """A history of single frames: what the cache's whole blocks cannot say, the model can be given."""

    def __init__(self, sink, window):
        self.sink, self.window, self.rope = sink, window, make_rope()
        self.blocks, self.past, self.staged = 0, {}, {}

    def stage(self, layer, k, v):
        self.staged[layer] = (self.rope(k, SIZE[0] * self.blocks), v)

    def attend(self, layer, q):
        past, staged = self.past.get(layer), self.staged[layer]
        k, v = (torch.cat(both, 2) for both in zip(past, staged, strict=True)) if past else staged
        return F.scaled_dot_product_attention(self.rope(q, SIZE[0] * self.blocks), k, v)

    def commit(self):
        for layer, staged in self.staged.items():
            past = self.past.get(layer, tuple(x[:, :, :0] for x in staged))
            whole = [torch.cat(both, 2) for both in zip(past, staged, strict=True)]
            sink, newest = self.sink * TOKENS, (self.window - SIZE[0] - self.sink) * TOKENS
            self.past[layer] = tuple(
                torch.cat([x[:, :, :sink], x[:, :, max(sink, x.shape[2] - newest) :]], 2) for x in whole
            )
        self.blocks += 1


@torch.inference_mode()
def test_a_window_of_frames_that_are_no_whole_blocks(transformer, text):
    history = Frames(sink=1, window=6)
    flows = flows_of_five_blocks(transformer, text, history, history.commit)
    assert_close(flows, recorded("window/window6_sink1/flow"), 2e-5)


@torch.inference_mode()
def test_a_pass_without_output_leaves_the_same_keys_and_values(transformer, text, exact):
    x = recorded("blocks/x")[0, None]
    memories = []
    for output in (True, False):
        cache = make_cache()
        flow = transformer(x, torch.zeros(1, 3), text, CachedHistory(cache, make_rope()), output)
        assert (flow is None) is not output
        cache.commit()
        memories.append([kept(cache, layer) for layer in range(CONFIG.layers)])
    for (whole_k, whole_v), (short_k, short_v) in zip(*memories, strict=True):
        assert torch.equal(whole_k, short_k)
        assert torch.equal(whole_v, short_v)


def recorded_draws():
    """Upstream draws a video's noise at once, and fresh noise for three of a block's four steps."""
    noise, fresh = recorded("pipeline/noise"), iter(recorded("pipeline/renoise"))
    for block in range(noise.shape[1] // SIZE[0]):
        yield noise[:, SIZE[0] * block : SIZE[0] * (block + 1)]
        for renoise in itertools.islice(fresh, 3):
            yield renoise[None]


@pytest.mark.parametrize("ahead", [False, True], ids=["in turn", "first look ahead"])
def test_upstreams_whole_pipeline(transformer, text, exact, ahead):
    draws, ticks = recorded_draws(), []
    cache, rope = make_cache(), make_rope()
    sampler = Sampler(transformer, rope, cache, SIZE, lambda shape: next(draws))
    sampler.change_text(text)
    blocks = []
    for block in range(4):
        blocks.append(sampler.generate(lambda step, steps: ticks.append((step, steps))))
        sampler.absorb(blocks[-1])
        if ahead and block < 3:
            sampler.launch()
    assert_close(torch.cat(blocks, 1), recorded("pipeline/latents"), 1e-4)
    assert ticks == [(step, 4) for _ in range(4) for step in range(4)]
    for layer in range(CONFIG.layers):
        k, v = kept(cache, layer)
        k = rope(k.flatten(1, 2)[None], 0)[0].unflatten(1, (-1, TOKENS))
        for name, ours in (("k", k), ("v", v)):
            theirs = recorded(f"pipeline/{name}{layer}")[0].permute(2, 0, 1, 3)
            assert_close(ours[:, [0, 11]], theirs, 1e-4)
    with pytest.raises(StopIteration):
        next(draws)


@torch.inference_mode()
def test_bf16_stays_near_fp32(transformer, text):
    """The precision the checkpoint runs in, through the cache as this machine reads it."""
    half = model(torch.bfloat16)
    text_half = half.read(recorded("context").bfloat16())
    geometry = CacheGeometry(CONFIG.layers, CONFIG.heads, CONFIG.head_dim, TOKENS)
    cache = KVCache(geometry, BF16, CachePolicy(every=1), frames_per_block=SIZE[0])
    history = CachedHistory(cache, make_rope())
    for block in range(2):
        x = recorded("blocks/x")[5 * block, None].bfloat16()
        flow = half(x, torch.full((1, 3), 1000.0), text_half, history)
        expected = recorded("blocks/flow")[5 * block]
        assert flow.dtype == torch.bfloat16
        assert (flow[0].float() - expected).norm() < 0.03 * expected.norm()
        clean = recorded("blocks/x")[5 * block + 4, None].bfloat16()
        half(clean, torch.zeros(1, 3), text_half, history, output=False)
        cache.commit()


@torch.inference_mode()
def test_compiled_halves_give_the_same_and_compile_once(text, exact):
    """The graphs that are compiled on a GPU, here run as they are: every layer and length shares them."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = model()
    compiled.compile(backend=count)
    cache = make_cache()
    history = CachedHistory(cache, make_rope())
    for block in range(2):
        for step, t in enumerate(recorded("blocks/t")):
            x = recorded("blocks/x")[5 * block + step, None]
            flow = compiled(x, t.expand(1, SIZE[0]), text, history)
            assert_close(flow[0], recorded("blocks/flow")[5 * block + step], 2e-5)
        compiled(x, torch.zeros(1, SIZE[0]), text, history, output=False)
        cache.commit()
    assert len(graphs) == 3  # before with and without queries, after


def test_the_specs_geometry_is_the_models():
    config = WanConfig()
    geometry = SPEC.geometry
    assert (config.layers, config.heads, config.head_dim) == (
        geometry.layers,
        geometry.heads,
        geometry.head_dim,
    )
    assert config.rope_pairs == (22, 21, 21)
    assert geometry.tokens_per_frame == (SPEC.height // 16) * (SPEC.width // 16)
