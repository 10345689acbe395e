"""Parses the headers of H.264 packets: the single-field flag and the type of their slices.

Camcorders store the two fields of an interlaced frame, its odd and its even lines, as two packets.
The names are those of the H.264 specification, sections 7.3.2.1.1 (sequence parameter set) and
7.3.3 (slice header).
"""

import re
from collections.abc import Callable, Iterator

_SLICES = (1, 5)  # nal_unit_type
_SLICE_TYPES = ("P", "B", "I", "SP", "SI")
_SEQUENCE_PARAMETERS = 7
_HIGH_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
_START_CODE = re.compile(b"\x00\x00\x01")
# The headers end within so many bytes; what follows need not be converted.
_MAX_HEADER = 64


class _Bits:
    """Reads the bits of a unit, in which a byte of 3 keeps two zeros from forming a start code."""

    def __init__(self, unit: bytes) -> None:
        data = unit[:_MAX_HEADER].replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise EOFError
        return self._value >> self._left & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def field_detector(extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """Return a function that returns True for packets that hold a single field.

    `extradata` are the headers that the container stores for the decoder. Returns None if they do
    not allow fields, as most do not.
    """
    extradata = extradata or b""
    length_size = _length_size(extradata)
    units = _units(extradata[6:], 2) if length_size else _units(extradata, 0)
    frame_num_bits = _bits_before_field_flag(units)
    if frame_num_bits is None:
        return None

    def is_single_field(packet: bytes) -> bool:
        # The first bit of a picture's first slice is 1: first_mb_in_slice is 0.
        pictures = [unit for unit in _slices(packet, length_size) if unit[1:2] >= b"\x80"]
        return len(pictures) == 1 and _is_field(pictures[0], frame_num_bits)

    return is_single_field


def slice_type_reader(extradata: bytes | None) -> Callable[[bytes], str | None]:
    """Return a function that returns the type of a packet's first slice: P, B, I, SP, SI or None.

    `extradata` are the headers that the container stores for the decoder.
    """
    length_size = _length_size(extradata or b"")

    def slice_type(packet: bytes) -> str | None:
        bits = _Bits(next(_slices(packet, length_size), b"")[1:])
        try:
            bits.exp_golomb()  # first_mb_in_slice
            return _SLICE_TYPES[bits.exp_golomb() % 5]
        except EOFError:
            return None

    return slice_type


def _length_size(extradata: bytes) -> int:
    """Return the bytes of the size before each unit, or 0 where start codes divide the units."""
    # ISO/IEC 14496-15, section 5.3.3: a version of 1, and bytes - 1 of the size.
    return (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0


def _slices(packet: bytes, length_size: int) -> Iterator[bytes]:
    return (unit for unit in _units(packet, length_size) if unit[0] & 31 in _SLICES)


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the units, before each of which is its size in so many bytes, or a start code if 0."""
    return _sized_units(data, length_size) if length_size else _units_after_start_codes(data)


def _sized_units(data: bytes, length_size: int) -> Iterator[bytes]:
    start = 0
    while start + length_size < len(data):
        end = start + length_size + int.from_bytes(data[start : start + length_size], "big")
        yield data[start + length_size : end] or b"\x00"
        start = end


def _units_after_start_codes(data: bytes) -> Iterator[bytes]:
    for match in _START_CODE.finditer(data):
        yield data[match.end() : match.end() + _MAX_HEADER + 1] or b"\x00"


def _bits_before_field_flag(units: Iterator[bytes]) -> tuple[int, int] | None:
    """Return the bits of colour_plane_id and frame_num in a slice's header, if it allows fields."""
    try:
        return next(_frame_num_bits(u) for u in units if u[0] & 31 == _SEQUENCE_PARAMETERS)
    except (EOFError, StopIteration):
        return None


def _frame_num_bits(sequence_parameters: bytes) -> tuple[int, int] | None:
    bits = _Bits(sequence_parameters[1:])
    profile = bits.read(8)
    bits.read(16)  # constraint flags and level_idc
    bits.exp_golomb()  # seq_parameter_set_id
    plane_bits = _skip_high_profile(bits) if profile in _HIGH_PROFILES else 0
    frame_num_bits = bits.exp_golomb() + 4
    _skip_picture_order(bits)
    bits.exp_golomb()  # max_num_ref_frames
    bits.read()  # gaps_in_frame_num_value_allowed_flag
    bits.exp_golomb()  # pic_width_in_mbs_minus1
    bits.exp_golomb()  # pic_height_in_map_units_minus1
    frame_mbs_only = bits.read()
    return None if frame_mbs_only else (plane_bits, frame_num_bits)


def _skip_high_profile(bits: _Bits) -> int:
    """Skip what only high profiles have; return the number of bits of colour_plane_id."""
    chroma_format = bits.exp_golomb()
    separate_planes = bits.read() if chroma_format == 3 else 0
    bits.exp_golomb()  # bit_depth_luma_minus8
    bits.exp_golomb()  # bit_depth_chroma_minus8
    bits.read()  # qpprime_y_zero_transform_bypass_flag
    if bits.read():  # seq_scaling_matrix_present_flag
        for index in range(12 if chroma_format == 3 else 8):
            if bits.read():
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return 2 if separate_planes else 0


def _skip_picture_order(bits: _Bits) -> None:
    order_type = bits.exp_golomb()
    if order_type == 0:
        bits.exp_golomb()  # log2_max_pic_order_cnt_lsb_minus4
    elif order_type == 1:
        bits.read()  # delta_pic_order_always_zero_flag
        bits.exp_golomb()  # offset_for_non_ref_pic
        bits.exp_golomb()  # offset_for_top_to_bottom_field
        for _ in range(bits.exp_golomb()):
            bits.exp_golomb()  # offset_for_ref_frame


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.exp_golomb()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def _is_field(unit: bytes, frame_num_bits: tuple[int, int]) -> bool:
    bits = _Bits(unit[1:])
    try:
        for _ in ("first_mb_in_slice", "slice_type", "pic_parameter_set_id"):
            bits.exp_golomb()
        for count in frame_num_bits:
            bits.read(count)
        return bool(bits.read())  # field_pic_flag
    except EOFError:
        return False
