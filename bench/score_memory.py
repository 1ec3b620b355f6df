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

BANK = """
import sys, numpy as np; from edgeface.submodels import SubmodelBank, unit
bank = SubmodelBank.load(sys.argv[1]); rng = np.random.default_rng(0)
for _ in range(4): bank.identify(unit(rng.standard_normal((8, 512))))
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
            rows, rows[::-1], np.arange(n) % 10, names=["x"] * n, rule=Rule("mixmaxsim"),
            embedder="bench",
        )  # fmt: skip
        bank.save(path)
        begin = time.perf_counter()
        SubmodelBank.load(path)
        load = time.perf_counter() - begin
        key = f"score.bank.N{n}"
        return out | {
            f"{key}.load_ms": load * 1e3,
            f"{key}.file_mb": path.stat().st_size / 1e6,
            f"{key}.resident_mb": _run(BANK, str(path)) / 1e6,
        }


def _run(code: str, argument: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return float(done.stdout)
