"""The added codec by its preset alone: in a cache, in measurements, in byte counts and on the page."""

from argparse import ArgumentParser

import torch

from backends import registry
from backends.memory_plan import codec_for
from qvg import PRESETS, CachePolicy, KVCache, attend
from qvg.bench.cache import add_arguments
from qvg.bench.settings import SETTINGS
from qvg.policy import cache_bytes
from qvg.selfcheck import preset_checks
from ui.form.values import QUANTIZED, default_form

NAME = "FP8"
config = PRESETS[NAME]

setting = SETTINGS["pocket"].small()
for policy in (CachePolicy(every=1), CachePolicy(every=2, sink=1, recent=1, window=5, device_bytes=0)):
    cache, plain = (
        KVCache(setting.geometry, setting.codec(each), policy, frames_per_block=setting.block)
        for each in (config, PRESETS["BF16"])
    )
    tokens = setting.block * setting.geometry.tokens_per_frame
    generator = torch.Generator().manual_seed(0)
    for _ in range(7):
        k, v, q = torch.randn(3, 1, setting.heads, tokens, setting.head_dim, generator=generator)
        for each in (cache, plain):
            each.layer(0).stage(k, v)
        exact, found = (attend(q, each.layer(0)) for each in (plain, cache))
        assert (found - exact).norm() < 0.05 * exact.norm()
        cache.commit()
        plain.commit()
    stats = cache.stats()
    assert 1 < plain.stats().stored_bytes / stats.stored_bytes < 2
    counted, _ = cache_bytes(setting.geometry, config, policy, 7, setting.block)
    assert stats.stored_bytes == counted

parser = ArgumentParser()
add_arguments(parser)
assert parser.parse_args(["--codec", NAME]).codec == [NAME]
assert all(check.passed for check in preset_checks(torch.device("cpu"), {NAME: config}, 64, tokens=100))
spec = registry.find("pocket")
assert codec_for(spec, NAME) == config
assert NAME in QUANTIZED
assert default_form(spec, NAME).codec(spec, NAME) == config
print("added")
