from _typeshed import ReadableBuffer as Buffer

def overlap(
    n: int,
    k: int,
    channels: int,
    m: int,
    kind: int,
    scalar: int,
    ids: Buffer,
    amounts: Buffer,
    nodes: Buffer,
    targets: Buffer,
    out: Buffer,
    /,
) -> None: ...
def lookup(
    n: int,
    k: int,
    m: int,
    absent: float,
    ids: Buffer,
    amounts: Buffer,
    nodes: Buffer,
    targets: Buffer,
    out: Buffer,
    /,
) -> None: ...
def partition(
    n: int, edges: int, start: Buffer, targets: Buffer, weights: Buffer, labels: Buffer, /
) -> float: ...
def path() -> str: ...
