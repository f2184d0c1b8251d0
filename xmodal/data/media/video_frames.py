"""A clip and instants in; the picture that stands on the screen at each of them out, decoding as little as that takes.

Runs of packets without a wanted picture are not decoded; inside a run, pictures that no other one is built on are
skipped unless they are wanted (on clips with B-frames about half of all).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import av
from av.error import FFmpegError

from xmodal.data.media.container import Clip, Packet
from xmodal.errors import BadSample

# Decoders that honour a skip changed between packets, and whose skipped pictures are surely referred to by no other.
SKIPPING = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8"})
BYTES_PER_PIXEL = 1.5  # of 4:2:0, 8 bits
_ROUNDING = 1e-3  # seconds: Matroska rounds timestamps to milliseconds


def frames_at(clip: Clip, times: Sequence[float]) -> Iterator[tuple[list[int], av.VideoFrame]]:
    """(positions in `times`, the picture shown then), in the order of time; positions outside the track are left out.

    `times` rise. A picture stands until the next one comes, so frame rates may vary. BadSample `decode_truncated`,
    `decode_corrupt`, `too_large`, and those of `Clip`.
    """
    track = clip.video
    packets = clip.packets(track, times[0], times[-1] + _ROUNDING)
    if all(packet.pts is not None for packet in packets):
        yield from _planned(clip, packets, times)
    else:
        yield from _one_by_one(clip, packets, times)


def _planned(clip: Clip, packets: list[Packet], times: Sequence[float]) -> Iterator[tuple[list[int], av.VideoFrame]]:
    wanted = _wanted(clip, packets, times)
    runs = _runs(packets, wanted)
    track = clip.video
    pixels = track.codec_context.width * track.codec_context.height
    clip.limits.check_decoded(BYTES_PER_PIXEL * pixels * sum(stop - start for start, stop, _ in runs))
    for start, stop, positions in runs:
        expected = {packets[position].pts: wanted[position] for position in positions}
        for frame in _decoded(track, packets[start:stop], set(expected)):
            if frame.pts in expected:
                yield expected.pop(frame.pts), _sound_frame(frame)
            if not expected:
                break
        if expected:
            raise BadSample("decode_corrupt", f"no picture came out of {len(expected)} packets")


def _wanted(clip: Clip, packets: list[Packet], times: Sequence[float]) -> dict[int, list[int]]:
    """Packet (by its place in decoding order) -> positions in `times` at which its picture stands on the screen."""
    track = clip.video
    shown = sorted(range(len(packets)), key=lambda i: packets[i].pts)
    tick, zero = clip.tick(track), clip.zero
    starts = [packets[i].pts * tick - zero for i in shown]
    if not shown:
        return {}
    end = starts[-1] + clip.packet_seconds(packets[shown[-1]], track)
    found: dict[int, list[int]] = {}
    for position, time in enumerate(times):
        rank = bisect_right(starts, time + _ROUNDING) - 1
        if rank >= 0 and time < end - _ROUNDING:
            found.setdefault(shown[rank], []).append(position)
    return found


def _runs(packets: list[Packet], wanted: dict[int, list[int]]) -> list[tuple[int, int, list[int]]]:
    """(first packet, end, wanted packets) of each stretch to decode: from a key picture to the last one wanted.

    A picture shown before the key picture ahead of it in decoding order (an open group) belongs to the group before.
    """
    groups: dict[int, list[int]] = {}
    for place in wanted:
        keys = (i for i in range(place, -1, -1) if packets[i].is_keyframe and packets[i].pts <= packets[place].pts)
        groups.setdefault(next(keys, 0), []).append(place)
    return [(key, max(places) + 1, places) for key, places in sorted(groups.items())]


def _decoded(track: Any, packets: list[Packet], wanted: set[int] | None) -> Iterator[av.VideoFrame]:
    """Every picture that comes out of the packets; without those that can be skipped where `wanted` (pts) is given."""
    context = track.codec_context
    skipping = context.codec.name in SKIPPING
    try:
        if context.is_open:
            context.flush_buffers()
        for packet in packets:
            if wanted is not None and skipping:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from context.decode(packet)
        yield from context.decode(None)
    except (FFmpegError, ValueError, MemoryError) as cause:
        raise BadSample("decode_corrupt", f"{context.codec.name}: {cause}") from cause


def _one_by_one(clip: Clip, packets: list[Packet], times: Sequence[float]) -> Iterator[tuple[list[int], av.VideoFrame]]:
    """For packets without times: decode them all, and let the decoder or the frame rate say when each is shown."""
    track = clip.video
    pixels = track.codec_context.width * track.codec_context.height
    clip.limits.check_decoded(BYTES_PER_PIXEL * pixels * len(packets))
    step = float(1 / track.average_rate) if track.average_rate else 0.04
    held: av.VideoFrame | None = None
    position, shown = 0, clip.span.start - step
    for frame in _decoded(track, packets, None):
        shown = clip.seconds(frame.pts, track) if frame.pts is not None else shown + step
        due = bisect_right(times, shown - _ROUNDING, lo=position)
        if held is not None and due > position:
            yield list(range(position, due)), _sound_frame(held)
        position, held = max(position, due), frame
    due = bisect_right(times, shown + step, lo=position)
    if held is not None and due > position:
        yield list(range(position, due)), _sound_frame(held)


def _sound_frame(frame: av.VideoFrame) -> av.VideoFrame:
    if frame.is_corrupt:
        raise BadSample("decode_corrupt", f"the picture at {frame.pts} is damaged")
    return frame
