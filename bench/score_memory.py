"""What scoring keeps in memory: a mapped bank's resident bytes, and the working memory of a call.

Both are measured in fresh processes, so that nothing of the bench counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgeface.submodels import Rule, SubmodelBank, unit

# 32 probes, a quarter of them strangers. With the file in the page cache a touched row maps its 15
# neighbouring pages too; without, what is resident is what was needed.
BANK = """
import os, sys, numpy as np; from edgeface.submodels import SubmodelBank, unit
if sys.argv[2] == 'cold':
    with open(sys.argv[1], 'rb') as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
bank = SubmodelBank.load(sys.argv[1]); rng = np.random.default_rng(0)
for i in range(32):
    x = unit(rng.standard_normal((1, 512)))
    near = np.asarray(bank.weights.exact[rng.integers(len(bank))], np.float32)
    bank.identify(unit(0.65 * near + 0.76 * x) if i % 4 != 3 else x)
total, here = 0, False
for line in open('/proc/self/smaps'):
    if '-' in line.split()[0]: here = line.rstrip().endswith('.efb')
    elif here and line.startswith('Rss:'): total += int(line.split()[1])
print(total * 1024)
"""
# The first call loads what is loaded once; writing 5 there forgets the peak so far (proc(5)).
CALL = """
import sys, numpy as np; from edgeface import score; from edgeface.submodels import unit
def kib(what):
    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(what))
rng = np.random.default_rng(0); n = int(sys.argv[1])
rows, x = np.full((n, 512), 512 ** -0.5, np.float32), unit(rng.standard_normal((32, 512)))
rows[::7] *= -1; codes = score.quantize(rows)
score.mixmaxsim(x, rows[:4096], rows[:4096])
open('/proc/self/clear_refs', 'w').write('5'); before = kib('VmRSS:')
score.mixmaxsim(x, rows, rows); score.mixmaxsim(x, codes, codes); score.topk(x, rows, 1)
print((kib('VmHWM:') - before) * 1024)
"""


def figures(quick: bool) -> dict[str, float | str | None]:
    out: dict[str, float | str | None] = {}
    n = 2000 if quick else 360_000
    for size in (1000, n):
        out[f"score.call.N{size}.D512.Q32.extra_memory_mb"] = _run(CALL, str(size)) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.efb"
        rows = unit(np.random.default_rng(1).standard_normal((n, 512), dtype=np.float32))
        bank = SubmodelBank.pack(
            rows, rows[::-1], np.arange(n) % 10, names=["x"] * n,
            rule=Rule("mixmaxsim", threshold=0.5), embedder="bench",
        )  # fmt: skip
        bank.save(path)
        begin = time.perf_counter()
        SubmodelBank.load(path)
        load = time.perf_counter() - begin
        key = f"score.bank.N{n}"
        return out | {
            f"{key}.load_ms": load * 1e3,
            f"{key}.file_mb": path.stat().st_size / 1e6,
            f"{key}.resident_mb": _run(BANK, str(path), "cold") / 1e6,
            f"{key}.resident_cached_mb": _run(BANK, str(path), "warm") / 1e6,
        }


def _run(code: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return float(done.stdout)
