"""Open an audio-video container: its tracks, its time span, and the packets of chosen seconds.

FFmpeg (through PyAV) applies edit lists to timestamps and removes encoder priming, so that a track's time here is the
time at which a player shows or plays it. Seconds are on the clip's clock, whose 0 is where a player starts it.
"""

import io
import math
import threading
from collections.abc import Iterable
from functools import cached_property
from operator import attrgetter
from typing import Any

import av
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.stream import Disposition

from xmodal.data.media.clip_window import TimeSpan
from xmodal.data.media.media_limits import MAX_PACKETS, MAX_TRACKS, MediaLimits
from xmodal.errors import BadSample

# Containers that hold all their media: a playlist or an image sequence would open other files.
CONTAINER_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,avi,flv,wav,flac,mp3,ogg,aac"
VIDEO_CODECS = frozenset(
    [
        "h264",
        "hevc",
        "av1",
        "libdav1d",
        "vp8",
        "vp9",
        "libvpx",
        "libvpx-vp9",
        "mpeg1video",
        "mpeg2video",
        "mpeg4",
        "h263",
        "mjpeg",
        "theora",
        "ffv1",
        "flv",
    ]
)
AUDIO_CODECS = frozenset(
    [
        "aac",
        "mp3",
        "mp3float",
        "mp2",
        "mp2float",
        "mp1",
        "mp1float",
        "opus",
        "libopus",
        "vorbis",
        "flac",
        "alac",
        "ac3",
        "eac3",
        "amrnb",
        "amrwb",
        "pcm_alaw",
        "pcm_mulaw",
        "pcm_u8",
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_s24be",
        "pcm_s32le",
        "pcm_s32be",
        "pcm_f32le",
        "pcm_f32be",
        "pcm_f64le",
        "pcm_f64be",
    ]
)
SHORT_CLIP_SECONDS = 30.0  # all packets of a clip declared shorter than this are read: 0.3 ms for 3 s
SEEKABLE_FORMATS = ("mov", "matroska")  # formats with an index; others are read from the beginning
PRE_ROLL = 0.12  # seconds that AAC, MP3 and Opus decode before they are exact; Opus needs 0.08
_PTS, _CORRUPT = attrgetter("pts"), attrgetter("is_corrupt")
_END_TOLERANCE = 0.5  # seconds by which a track may end before the end in its header

Packet = Any  # PyAV's; its `pts` may be None

_open = threading.local()  # `clip`: the clip that this thread opened last; `kinds`: the kinds of track read from it


class ClipReader:
    """An open container. Fields of one sample that decode the same bytes share it, so that it is read once."""

    def __init__(self, encoded: bytes, limits: MediaLimits) -> None:
        self.encoded, self.limits = encoded, limits
        limits.check_bytes(encoded)
        self._container = _open_container(encoded, limits)
        streams = self._container.streams
        if len(streams) > MAX_TRACKS:
            raise BadSample("too_large", f"{len(streams)} tracks, limit {MAX_TRACKS}")
        self._streams = [s for s in (_first(streams.video), _first(streams.audio)) if s is not None]
        self._tick = {s.index: float(s.time_base) for s in self._streams}  # seconds; a Fraction product costs 4 us
        self.clock_start = self._find_clock_start()
        if self._header_seconds is not None:
            limits.check_seconds(self._header_seconds)
        self._complete: set[tuple[int, float]] = set()  # tracks, and times that they are known to reach
        self._packets: tuple[float, float, dict[int, list[Packet]]] | None = None  # start, stop, packets by track

    def _find_clock_start(self) -> float:
        """Return where the clip's clock starts on the container's: an mp4 at 0, others with their main track.

        MPEG streams start anywhere; their audio starts some milliseconds earlier, with the encoder's priming.
        """
        if not self._streams or "mov" in self._container.format.name:
            return 0.0
        main = self._streams[0]
        return max(0.0, (main.start_time or 0) * self._tick[main.index])

    @property
    def video_track(self) -> Any:
        """The first video track that is not cover art; BadSample `no_video_track`, `unknown_codec`, `too_large`."""
        track = self._track("video", VIDEO_CODECS)
        self.limits.check_image_size(track.codec_context.width, track.codec_context.height)
        return track

    @property
    def audio_track(self) -> Any:
        """The first audio track; BadSample `no_audio_track`, `unknown_codec`, `too_large`."""
        track = self._track("audio", AUDIO_CODECS)
        self.limits.check_audio_format(track.codec_context.sample_rate, track.codec_context.channels)
        return track

    def _track(self, kind: str, codecs: frozenset[str]) -> Any:
        track = next((s for s in self._streams if s.type == kind), None)
        if track is None:
            tracks = ", ".join(stream.type for stream in self._container.streams) or "no tracks"
            raise BadSample(f"no_{kind}_track", f"{self._container.format.name} with {tracks}")
        context = track.codec_context
        if context is None or context.codec.name not in codecs:
            raise BadSample("unknown_codec", context.codec.name if context else "none that FFmpeg knows")
        if not context.is_open:
            context.thread_type, context.thread_count = "NONE", 1  # frame threads deadlock when decoding stops early
            context.options = {"err_detect": "explode", "max_pixels": str(self.limits.max_pixels)}
        return track

    @cached_property
    def _header_seconds(self) -> float | None:
        """Length of the clip by its header; None where the header has none."""
        ends = [self._container.duration / av.time_base] if self._container.duration else []
        ends += [float(s.duration * s.time_base) for s in self._streams if s.duration and s.time_base]
        return max(ends, default=None)

    @cached_property
    def span(self) -> TimeSpan:
        """The time span of the whole clip, for audio and video: that of the video, or of the audio if there is none."""
        if not self._streams:
            raise BadSample("no_media_track", f"{self._container.format.name} without video and audio")
        main = self._streams[0]
        if main.duration and self._header_seconds is not None and self._header_seconds > SHORT_CLIP_SECONDS:
            start = self.seconds(main.start_time or 0, main)
            return TimeSpan(start, start + float(main.duration * main.time_base))
        return self._span_of_packets(self.packets(main))

    def _span_of_packets(self, packets: list[Packet]) -> TimeSpan:
        main = self._streams[0]
        with_time = [p for p in packets if p.pts is not None and not p.is_discard]
        if not with_time:
            raise BadSample("decode_truncated", f"a {main.type} track without packets that have a time")
        last = max(with_time, key=_PTS)
        return TimeSpan(
            max(0.0, self.seconds(min(p.pts for p in with_time), main)),
            self.seconds(last.pts, main) + self.packet_seconds(last, main),
        )

    def packet_seconds(self, packet: Packet, track: Any) -> float:
        """Return how long a packet lasts, by its own duration or else by the frame rate."""
        if packet.duration:
            return float(packet.duration * self._tick[track.index])
        rate = track.average_rate if track.type == "video" else None
        return float(1 / rate) if rate else 0.04

    def tick(self, track: Any) -> float:
        """Return the seconds of one unit of the track's timestamps."""
        return self._tick[track.index]

    def seconds(self, timestamp: int, track: Any) -> float:
        """Convert a track's timestamp to seconds on the clip's clock."""
        return timestamp * self._tick[track.index] - self.clock_start

    def packets(self, track: Any, start: float = 0.0, stop: float = math.inf) -> list[Packet]:
        """Return the track's packets from one that can be decoded at `start` to all that begin before `stop`.

        They are in decoding order. BadSample `too_long`, `decode_truncated`, `decode_corrupt`.
        """
        whole = self._header_seconds is None or self._header_seconds <= SHORT_CLIP_SECONDS
        start, stop = (0.0, math.inf) if whole else (max(0.0, start - PRE_ROLL), stop)
        if self._packets is None or start < self._packets[0] or stop > self._packets[1]:
            self._packets, self._complete = (start, stop, self._read_packets(start, stop)), set()
        packets = self._packets[2][track.index]
        if (track.index, stop) not in self._complete:
            self._check_end(packets, track, stop)
            self._complete.add((track.index, stop))
        return packets

    def _read_packets(self, start: float, stop: float) -> dict[int, list[Packet]]:
        """Read the packets of all tracks between two times, since audio and video fields use the same span."""
        packets: dict[int, list[Packet]] = {stream.index: [] for stream in self._streams}
        running = set(packets)
        try:
            self._rewind(start)
            for number, packet in enumerate(self._container.demux(self._streams)):
                if packet.size == 0 or packet.stream_index not in running:
                    continue
                stamp = packet.dts if packet.dts is not None else packet.pts
                time = None if stamp is None else stamp * self._tick[packet.stream_index] - self.clock_start
                if number > MAX_PACKETS or (time is not None and time > self.limits.max_seconds + 1):
                    raise BadSample("too_long", f"packet {number} at {time} s, limit {self.limits.max_seconds:g} s")
                if time is not None and time > stop:
                    running.discard(packet.stream_index)
                    if not running:
                        break
                    continue
                packets[packet.stream_index].append(packet)
        except EndOfFile:
            pass
        except (FFmpegError, ValueError, OverflowError) as cause:
            raise BadSample("decode_corrupt", f"packets: {cause}") from cause
        return packets

    def _rewind(self, start: float) -> None:
        """Go to the last keyframe at or before `start`, or to the beginning where the format has no index."""
        seekable = any(name in self._container.format.name for name in SEEKABLE_FORMATS)
        if seekable and start > 0:
            main = self._streams[0]
            self._container.seek(
                int((start + self.clock_start) / main.time_base), stream=main, backward=True, any_frame=False
            )
        elif self._packets is not None:
            self.close()
            self._reopen()

    def _reopen(self) -> None:
        indexes = [stream.index for stream in self._streams]
        self._container = _open_container(self.encoded, self.limits)
        self._streams = [self._container.streams[index] for index in indexes]

    def _check_end(self, packets: list[Packet], track: Any, stop: float) -> None:
        """Raise BadSample `decode_truncated` unless the track reaches `stop`, or the end in its header."""
        if any(map(_CORRUPT, packets)):
            raise BadSample("decode_truncated", f"a {track.type} packet lacks bytes")
        if not track.duration or track.start_time is None:
            return
        header_end = self.seconds(track.start_time + track.duration, track)
        last = max((p for p in packets if p.pts is not None), key=_PTS, default=None)
        end = self.seconds(last.pts, track) + self.packet_seconds(last, track) if last else 0.0
        if end < min(stop, header_end) - _END_TOLERANCE:
            raise BadSample("decode_truncated", f"{track.type} ends at {end:.2f} s of {header_end:.2f} s")

    def close(self) -> None:
        """Close the container."""
        self._container.close()


def open_clip(encoded: bytes, limits: MediaLimits, kind: str) -> ClipReader:
    """Return the clip of these bytes, to decode its track of this `kind` ("video", "audio") once.

    If this thread has just opened the same bytes object for the other kind, that clip is returned. A decoder is never
    used twice: AAC's keeps the state of its noise generator, so that a second decode would give other samples.
    """
    clip: ClipReader | None = getattr(_open, "clip", None)
    if clip is None or clip.encoded is not encoded or clip.limits != limits or kind in _open.kinds:
        if clip is not None:
            clip.close()
        _open.clip, _open.kinds = None, set()
        _open.clip = clip = ClipReader(encoded, limits)
    _open.kinds.add(kind)
    return clip


def _open_container(encoded: bytes, limits: MediaLimits) -> Any:
    options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
    container_options = {
        "format_whitelist": CONTAINER_FORMATS,
        "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS)),
        "max_streams": str(MAX_TRACKS + 1),
    }
    try:
        return av.open(
            io.BytesIO(encoded), "r", options=options, container_options=container_options, metadata_errors="ignore"
        )
    except (FFmpegError, ValueError, OverflowError) as cause:
        reason = "decode_truncated" if _looks_like_media(encoded) else "not_a_video"
        raise BadSample(reason, f"{cause}, begins {encoded[:12]!r}") from cause


def _looks_like_media(encoded: bytes) -> bool:
    return encoded[4:8] == b"ftyp" or encoded.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"RIFF", b"OggS", b"fLaC"))


def _first(streams: Iterable[Any]) -> Any | None:
    """Return the first stream that is not an attached picture, i.e. cover art."""
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)
