"""Find the frame on the screen at each of some times, decoding as few frames as possible.

Groups of packets without a needed frame are not decoded; inside a group, frames that no other frame refers to are
skipped unless they are needed (about half of all frames of clips with B-frames).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av
from av.error import FFmpegError

from xmodal.data.media.container import ClipReader, Packet
from xmodal.errors import BadSample

# Decoders that accept a skip mode changed between packets, and whose skipped frames no other frame refers to.
SKIP_CODECS = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8"})
BYTES_PER_PIXEL = 1.5  # of 4:2:0, 8 bits
_ROUNDING = 1e-3  # seconds: Matroska rounds timestamps to milliseconds


def frames_at(clip: ClipReader, times: Sequence[float]) -> Iterator[tuple[list[int], av.VideoFrame]]:
    """Yield (positions in `times`, the frame shown at these times) in the order of time.

    `times` must be sorted; positions outside the track are left out. A frame is shown until the next one, so frame
    rates may vary. BadSample `decode_truncated`, `decode_corrupt`, `too_large`, and those of `ClipReader`.
    """
    track = clip.video_track
    packets = clip.packets(track, times[0], times[-1] + _ROUNDING)
    if all(packet.pts is not None for packet in packets):
        yield from _by_timestamps(clip, packets, times)
    else:
        yield from _by_decoding_all(clip, packets, times)


def _by_timestamps(
    clip: ClipReader, packets: list[Packet], times: Sequence[float]
) -> Iterator[tuple[list[int], av.VideoFrame]]:
    positions_of = _positions_by_packet(clip, packets, times)
    runs = _runs_to_decode(packets, positions_of)
    track = clip.video_track
    pixels = track.codec_context.width * track.codec_context.height
    clip.limits.check_decoded(BYTES_PER_PIXEL * pixels * sum(stop - start for start, stop, _ in runs))
    for start, stop, needed in runs:
        expected = {packets[packet].pts: positions_of[packet] for packet in needed}
        for frame in _decode(track, packets[start:stop], set(expected)):
            if frame.pts in expected:
                yield expected.pop(frame.pts), _check_frame(frame)
            if not expected:
                break
        if expected:
            raise BadSample("decode_corrupt", f"no frame came out of {len(expected)} packets")


def _positions_by_packet(clip: ClipReader, packets: list[Packet], times: Sequence[float]) -> dict[int, list[int]]:
    """Map each needed packet (by its index in decoding order) to the positions in `times` when its frame is shown."""
    track = clip.video_track
    display_order = sorted(range(len(packets)), key=lambda i: packets[i].pts)
    tick, clock_start = clip.tick(track), clip.clock_start
    starts = [packets[i].pts * tick - clock_start for i in display_order]
    if not display_order:
        return {}
    end = starts[-1] + clip.packet_seconds(packets[display_order[-1]], track)
    positions_of: dict[int, list[int]] = {}
    for position, time in enumerate(times):
        rank = bisect_right(starts, time + _ROUNDING) - 1
        if rank >= 0 and time < end - _ROUNDING:
            positions_of.setdefault(display_order[rank], []).append(position)
    return positions_of


def _runs_to_decode(packets: list[Packet], needed: Iterable[int]) -> list[tuple[int, int, list[int]]]:
    """Return (first packet, end, needed packets) of each run to decode: from a keyframe to the last needed packet.

    A frame shown before the keyframe ahead of it in decoding order (an open group) belongs to the group before.
    """
    groups: dict[int, list[int]] = {}
    for packet in needed:
        keys = (i for i in range(packet, -1, -1) if packets[i].is_keyframe and packets[i].pts <= packets[packet].pts)
        groups.setdefault(next(keys, 0), []).append(packet)
    return [(key, max(group) + 1, group) for key, group in sorted(groups.items())]


def _decode(track: Any, packets: list[Packet], needed_pts: set[int] | None) -> Iterator[av.VideoFrame]:
    """Yield the frames of the packets; where `needed_pts` is given, other frames may be left out if they can be."""
    context = track.codec_context
    skipping = context.codec.name in SKIP_CODECS
    try:
        if context.is_open:
            context.flush_buffers()
        for packet in packets:
            if needed_pts is not None and skipping:
                context.skip_frame = "DEFAULT" if packet.pts in needed_pts else "NONREF"
            yield from context.decode(packet)
        yield from context.decode(None)
    except (FFmpegError, ValueError, MemoryError) as cause:
        raise BadSample("decode_corrupt", f"{context.codec.name}: {cause}") from cause


def _by_decoding_all(
    clip: ClipReader, packets: list[Packet], times: Sequence[float]
) -> Iterator[tuple[list[int], av.VideoFrame]]:
    """Decode all packets, of which some have no time: the decoder or the frame rate tells when each frame is shown."""
    track = clip.video_track
    pixels = track.codec_context.width * track.codec_context.height
    clip.limits.check_decoded(BYTES_PER_PIXEL * pixels * len(packets))
    step = float(1 / track.average_rate) if track.average_rate else 0.04
    on_screen: av.VideoFrame | None = None
    position, time = 0, clip.span.start - step
    for frame in _decode(track, packets, None):
        time = clip.seconds(frame.pts, track) if frame.pts is not None else time + step
        stop = bisect_right(times, time - _ROUNDING, lo=position)
        if on_screen is not None and stop > position:
            yield list(range(position, stop)), _check_frame(on_screen)
        position, on_screen = max(position, stop), frame
    stop = bisect_right(times, time + step, lo=position)
    if on_screen is not None and stop > position:
        yield list(range(position, stop)), _check_frame(on_screen)


def _check_frame(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a frame that is not damaged; BadSample `decode_corrupt` otherwise."""
    if frame.is_corrupt:
        raise BadSample("decode_corrupt", f"the frame at {frame.pts} is damaged")
    return frame
