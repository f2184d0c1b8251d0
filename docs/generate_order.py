"""Draw the order of rows of `--shuffle wide` as it is, for a corpus of four small shards: images/stream-order.svg."""

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np

from xmodal.data.stream import lanes
from xmodal.data.stream.order import StreamPlan, epoch_order

COLORS = ("#2a78d6", "#eb6834", "#1baf7a", "#8f7be0")  # of the shards
STYLE = (
    'text{font:12px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:#55544f}.h{font-weight:600;fill:#17171a;'
    "font-size:13px}.f{fill:none;stroke:#17171a;stroke-width:1.2}.n{font-size:8.5px;fill:#fff}"
)
SHARD_ROWS, EXTENT_ROWS, BATCH, RANKS = 24, 6, 8, 2
SMALL = {"MIN_LANE_ROWS": 2, "MIN_WINDOW_STEPS": 6, "MAX_WINDOW_STEPS": 6}  # of the product: 8, 80 and 128
CELL, LEFT, WIDTH = 9, 14, 892


def order_picture() -> str:
    """Return the picture as SVG."""
    extents = np.full(len(COLORS) * SHARD_ROWS // EXTENT_ROWS, EXTENT_ROWS)
    shard = np.repeat(np.arange(len(COLORS)), SHARD_ROWS // EXTENT_ROWS)
    plan = StreamPlan(extents, shard, seed=3, global_batch=BATCH, shuffle="wide", target_task_rows=BATCH)
    order = epoch_order(plan, 0)[0]
    with patch.multiple(lanes, **SMALL):
        picks = np.concatenate([task.picks for task in plan.tasks(0, plan.steps_per_epoch) if task.picks is not None])
        lane_count = lanes.Lanes(plan.rows, BATCH).count
        parts = [
            *_heading(28, "1. Index: four shards, each cut into extents, runs of rows that are read together"),
            *_strip(40, range(len(extents)), shard),
            *_heading(96, "2. Order: the extents of an epoch in random order, dealt out to the lanes in equal parts"),
            *_strip(108, order, shard),
            *_lane_marks(108, lane_count, plan.rows),
            *_heading(176, "3. Steps: each lane delivers its part in windows, whose rows it permutes"),
            *_grid(picks.reshape(plan.steps_per_epoch, lane_count, -1, 2), shard, lanes.Lanes(plan.rows, BATCH)),
        ]
    height = 470
    title = "The order of rows: shards, extents, lanes, steps, ranks"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"><title>{title}</title>'
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" rx="12" fill="#fff" stroke="#e3e2dd"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _heading(y: int, text: str) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="{y}" class="h">{text}</text>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text}</text>'


def _strip(y: int, order: "range | np.ndarray", shard: np.ndarray) -> Iterator[str]:
    """Draw the extents in this order: a cell for each row in the colour of its shard, a frame around each extent."""
    for place, extent in enumerate(order):
        x = LEFT + place * EXTENT_ROWS * CELL
        cells = "".join(f"M{x + i * CELL} {y}h{CELL - 1}v16h-{CELL - 1}z" for i in range(EXTENT_ROWS))
        yield f'<path d="{cells}" fill="{COLORS[shard[extent]]}"/>'
        yield f'<rect x="{x - 1}" y="{y - 2}" width="{EXTENT_ROWS * CELL}" height="20" class="f"/>'


def _lane_marks(y: int, count: int, rows: int) -> Iterator[str]:
    for lane in range(count):
        begin, end = LEFT + lane * rows // count * CELL, LEFT + (lane + 1) * rows // count * CELL
        yield f'<path d="M{begin + 2} {y + 24}v5H{end - 4}v-5" class="f"/>'
        yield _text((begin + end) / 2, y + 43, f"lane {lane}", "middle")


def _grid(picks: np.ndarray, shard: np.ndarray, geometry: lanes.Lanes) -> Iterator[str]:
    """Draw steps [S, lanes, rows of a lane, 2] side by side, with the windows of each lane."""
    left, top, column, row_height = 76, 196, 66, 46
    steps, lane_count, width, _ = picks.shape
    for lane in range(lane_count):
        y = top + lane * row_height
        yield _text(LEFT, y + 15, f"lane {lane}")
        for step in range(steps):
            for slot, (extent, _) in enumerate(picks[step, lane].tolist()):
                x = left + step * column + slot * 26
                color = "#e3e2dd" if extent < 0 else COLORS[shard[extent]]
                yield f'<rect x="{x}" y="{y}" width="24" height="22" rx="3" fill="{color}"/>'
                yield f'<text x="{x + 12}" y="{y + 14}" class="n" text-anchor="middle">e{extent}</text>'
        begins = geometry.windows(np.arange(steps), np.full(steps, lane))[0].tolist()
        for begin in sorted(set(begins)):
            last = max(step for step in range(steps) if begins[step] == begin)
            x, end = left + begin * column - 4, left + last * column + width * 26 + 2
            yield f'<rect x="{x}" y="{y - 4}" width="{end - x}" height="30" rx="5" class="f"/>'
    bottom = top + lane_count * row_height
    for step in range(steps):
        yield _text(left + step * column + 25, bottom + 8, f"step {step}", "middle")
    yield _text(
        LEFT, bottom + 36, "A number names the extent of a row, the colour its shard. A frame is a window: its rows "
        "come in random order, spread over its steps.",
    )  # fmt: skip
    yield _text(
        LEFT, bottom + 54, "A step is the global batch; its rows are dealt out to the ranks, however many they are. "
        "In the product a lane gives 8 rows to a step,",
    )  # fmt: skip
    yield _text(LEFT, bottom + 72, "a window is 80 to 128 steps long, and a batch of 1,024 rows has 128 lanes.")
