"""The bytes of one audio-video container in; its tracks, the clip's span, and packets of chosen seconds out.

FFmpeg (through PyAV) applies edit lists to timestamps and takes off encoder priming, so that a track's time here is
the time at which it is seen or heard. Seconds are on the clip's clock, whose 0 is where a player starts it.
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

from xmodal.data.media.clip_window import Span
from xmodal.data.media.media_limits import MAX_PACKETS, MAX_TRACKS, MediaLimits
from xmodal.errors import BadSample

# Containers that hold their media in themselves: a playlist or an image sequence would open other files.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,avi,flv,wav,flac,mp3,ogg,aac"
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
WALKED_SECONDS = 30.0  # a clip declared shorter than this is walked whole: 0.3 ms for 3 s
SEEKABLE = ("mov", "matroska")  # formats with an index; others are walked from the beginning
PRE_ROLL = 0.12  # seconds of sound that AAC, MP3 and Opus decode before they are exact; Opus asks for 0.08
_PTS, _CORRUPT = attrgetter("pts"), attrgetter("is_corrupt")
_GRACE = 0.5  # seconds by which a track may end before its container says so

Packet = Any  # PyAV's; its `pts` may be None

_open = threading.local()  # `clip`: the one that this thread opened last; `kinds`: what it has served


class Clip:
    """One open container. Fields of one sample that read the same bytes share it: it is opened and walked once."""

    def __init__(self, encoded: bytes, limits: MediaLimits) -> None:
        self.encoded, self.limits = encoded, limits
        limits.check_bytes(encoded)
        self._container = _opened(encoded, limits)
        streams = self._container.streams
        if len(streams) > MAX_TRACKS:
            raise BadSample("too_large", f"{len(streams)} tracks, limit {MAX_TRACKS}")
        self._streams = [s for s in (_first(streams.video), _first(streams.audio)) if s is not None]
        self._tick = {s.index: float(s.time_base) for s in self._streams}  # seconds; a Fraction product costs 4 us
        self.zero = self._zero()
        if self._declared is not None:
            limits.check_seconds(self._declared)
        self._checked: set[tuple[int, float]] = set()  # tracks found to reach that far
        self._held: tuple[float, float, dict[int, list[Packet]]] | None = None

    def _zero(self) -> float:
        """Where the clip's clock starts, on the container's: an mp4 starts at 0, others with their main track.

        MPEG streams start anywhere; their sound starts some milliseconds before, with what the encoder primed it with.
        """
        if not self._streams or "mov" in self._container.format.name:
            return 0.0
        main = self._streams[0]
        return max(0.0, (main.start_time or 0) * self._tick[main.index])

    @property
    def video(self) -> Any:
        """The picture track that is not cover art; BadSample `no_video_track`, `unknown_codec`, `too_large`."""
        track = self._track("video", VIDEO_CODECS)
        self.limits.check_picture(track.codec_context.width, track.codec_context.height)
        return track

    @property
    def audio(self) -> Any:
        """The first sound track; BadSample `no_audio_track`, `unknown_codec`, `too_large`."""
        track = self._track("audio", AUDIO_CODECS)
        self.limits.check_sound(track.codec_context.sample_rate, track.codec_context.channels)
        return track

    def _track(self, kind: str, codecs: frozenset[str]) -> Any:
        track = next((s for s in self._streams if s.type == kind), None)
        if track is None:
            held = ", ".join(stream.type for stream in self._container.streams) or "no tracks"
            raise BadSample(f"no_{kind}_track", f"{self._container.format.name} with {held}")
        context = track.codec_context
        if context is None or context.codec.name not in codecs:
            raise BadSample("unknown_codec", context.codec.name if context else "none that FFmpeg knows")
        if not context.is_open:
            context.thread_type, context.thread_count = "NONE", 1  # frame threads deadlock when decoding stops early
            context.options = {"err_detect": "explode", "max_pixels": str(self.limits.max_pixels)}
        return track

    @cached_property
    def _declared(self) -> float | None:
        """Seconds as the header says; None where it does not."""
        ends = [self._container.duration / av.time_base] if self._container.duration else []
        ends += [float(s.duration * s.time_base) for s in self._streams if s.duration and s.time_base]
        return max(ends, default=None)

    @cached_property
    def span(self) -> Span:
        """When the pictures run, or the sound where there are none: what "the whole clip" means for both."""
        if not self._streams:
            raise BadSample("no_media_track", f"{self._container.format.name} without pictures and sound")
        main = self._streams[0]
        if main.duration and self._declared is not None and self._declared > WALKED_SECONDS:
            start = self.seconds(main.start_time or 0, main)
            return Span(start, start + float(main.duration * main.time_base))
        return self._walked_span(self.packets(main))

    def _walked_span(self, packets: list[Packet]) -> Span:
        main = self._streams[0]
        shown = [p for p in packets if p.pts is not None and not p.is_discard]
        if not shown:
            raise BadSample("decode_truncated", f"a {main.type} track without packets that have a time")
        last = max(shown, key=_PTS)
        return Span(
            max(0.0, self.seconds(min(p.pts for p in shown), main)),
            self.seconds(last.pts, main) + self.packet_seconds(last, main),
        )

    def packet_seconds(self, packet: Packet, track: Any) -> float:
        """How long a packet lasts, by its own word or by the frame rate."""
        if packet.duration:
            return packet.duration * self._tick[track.index]
        rate = track.average_rate if track.type == "video" else None
        return float(1 / rate) if rate else 0.04

    def tick(self, track: Any) -> float:
        """Seconds of one unit of the track's timestamps."""
        return self._tick[track.index]

    def seconds(self, timestamp: int, track: Any) -> float:
        """A track's timestamp on the clip's clock."""
        return timestamp * self._tick[track.index] - self.zero

    def packets(self, track: Any, start: float = 0.0, stop: float = math.inf) -> list[Packet]:
        """The track's packets in decoding order, from one that decodes at `start` to all that begin before `stop`.

        BadSample `too_long`, `decode_truncated`, `decode_corrupt`.
        """
        whole = self._declared is None or self._declared <= WALKED_SECONDS
        start, stop = (0.0, math.inf) if whole else (max(0.0, start - PRE_ROLL), stop)
        if self._held is None or start < self._held[0] or stop > self._held[1]:
            self._held, self._checked = (start, stop, self._walk(start, stop)), set()
        held = self._held[2][track.index]
        if (track.index, stop) not in self._checked:
            self._check_end(held, track, stop)
            self._checked.add((track.index, stop))
        return held

    def _walk(self, start: float, stop: float) -> dict[int, list[Packet]]:
        """The packets of all tracks in use between two times: both fields will ask."""
        found: dict[int, list[Packet]] = {stream.index: [] for stream in self._streams}
        running = set(found)
        try:
            self._rewind(start)
            for number, packet in enumerate(self._container.demux(self._streams)):
                if packet.size == 0 or packet.stream_index not in running:
                    continue
                stamp = packet.dts if packet.dts is not None else packet.pts
                time = None if stamp is None else stamp * self._tick[packet.stream_index] - self.zero
                if number > MAX_PACKETS or (time is not None and time > self.limits.max_seconds + 1):
                    raise BadSample("too_long", f"packet {number} at {time} s, limit {self.limits.max_seconds:g} s")
                if time is not None and time > stop:
                    running.discard(packet.stream_index)
                    if not running:
                        break
                    continue
                found[packet.stream_index].append(packet)
        except EndOfFile:
            pass
        except (FFmpegError, ValueError, OverflowError) as cause:
            raise BadSample("decode_corrupt", f"packets: {cause}") from cause
        return found

    def _rewind(self, start: float) -> None:
        """To the last key picture at or before `start`; to the beginning where the format has no index."""
        seekable = any(name in self._container.format.name for name in SEEKABLE)
        if seekable and start > 0:
            main = self._streams[0]
            self._container.seek(int((start + self.zero) / main.time_base), stream=main, backward=True, any_frame=False)
        elif self._held is not None:
            self.close()
            self._reopen()

    def _reopen(self) -> None:
        indexes = [stream.index for stream in self._streams]
        self._container = _opened(self.encoded, self.limits)
        self._streams = [self._container.streams[index] for index in indexes]

    def _check_end(self, packets: list[Packet], track: Any, stop: float) -> None:
        """The track must reach `stop`, or the end that its header declares."""
        if any(map(_CORRUPT, packets)):
            raise BadSample("decode_truncated", f"a {track.type} packet lacks bytes")
        if not track.duration or track.start_time is None:
            return
        declared = self.seconds(track.start_time + track.duration, track)
        last = max((p for p in packets if p.pts is not None), key=_PTS, default=None)
        end = self.seconds(last.pts, track) + self.packet_seconds(last, track) if last else 0.0
        if end < min(stop, declared) - _GRACE:
            raise BadSample("decode_truncated", f"{track.type} ends at {end:.2f} s of {declared:.2f} s")

    def close(self) -> None:
        self._container.close()


def open_clip(encoded: bytes, limits: MediaLimits, kind: str) -> Clip:
    """The clip of these bytes for one decode of its `kind` ("video", "audio") of track.

    It is the open one where this very object was opened last by this thread for the other kind. A decoder is never
    used twice: AAC's keeps the state of its noise generator, and a second decode would sound otherwise.
    """
    clip: Clip | None = getattr(_open, "clip", None)
    if clip is None or clip.encoded is not encoded or clip.limits != limits or kind in _open.kinds:
        if clip is not None:
            clip.close()
        _open.clip, _open.kinds = None, set()
        _open.clip = clip = Clip(encoded, limits)
    _open.kinds.add(kind)
    return clip


def _opened(encoded: bytes, limits: MediaLimits) -> Any:
    bound = {"max_pixels": str(limits.max_pixels), "threads": "1"}
    own = {
        "format_whitelist": FORMATS,
        "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS)),
        "max_streams": str(MAX_TRACKS + 1),
    }
    try:
        return av.open(io.BytesIO(encoded), "r", options=bound, container_options=own, metadata_errors="ignore")
    except (FFmpegError, ValueError, OverflowError) as cause:
        known = _looks_like_media(encoded)
        raise BadSample("decode_truncated" if known else "not_a_video", f"{cause}, begins {encoded[:12]!r}") from cause


def _looks_like_media(encoded: bytes) -> bool:
    return encoded[4:8] == b"ftyp" or encoded.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"RIFF", b"OggS", b"fLaC"))


def _first(streams: Iterable[Any]) -> Any | None:
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)
