"""What a small float is: one frozen spec, everything else derived from it, exactly.

A code is ``sign | exponent field | mantissa field``. With ``emin = 1 - bias`` and ``f`` the exponent field::

    f = 0   (-1)^s * mantissa * 2^(emin - M)                      zero and subnormals
    f > 0   (-1)^s * (2^M + mantissa) * 2^(f - bias - M)          normals

so the codes without their sign are monotone in the value, and a rounding carry walks into the next
binade by itself. E = 0 has no exponent field at all: fixed point with step 2^-M, its bias is 0 and means
nothing. Specials come in five dialects:

    finite   every code is a number (no inf, no nan)
    ieee     the top exponent field is reserved: inf at mantissa 0, nan elsewhere    has_inf, has_nan
    fn       only the all-ones code is nan (OCP E4M3)                                has_nan, fn_nan
    fnuz     only the code of -0 is nan; there is no -0        has_nan, negative_zero=False
    p3109    nan in the code of -0, inf in the all-ones code   has_inf, has_nan, negative_zero=False

Sources: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0; IEEE 754-2019 3.4;
Noune et al. 2022 (arXiv 2206.02915) for FNUZ; IEEE P3109 interim report.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from altgrad_cli.errors import FormatError
from altgrad_cli.formats.block_spec import ONE_SCALE, BlockSpec
from altgrad_cli.formats.exact_text import exact_text
from altgrad_cli.formats.rules import check_range, check_specials, check_width


@dataclass(frozen=True)
class FP8Format:
    """A signed binary format of at most 16 bits. Frozen and hashable; two equal specs are one format.

    Raises ``FormatError`` when the fields break a rule: width, specials that do not fit, or a grid that
    a float32 carrier cannot hold (maximum above float32's, smallest step below 2^-149).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    has_inf: bool = False
    has_nan: bool = False
    fn_nan: bool = False  # only the all-ones code is nan
    negative_zero: bool = True  # False: the code of -0 is the nan
    block: BlockSpec = ONE_SCALE

    def __post_init__(self) -> None:
        check_width(self)
        check_specials(self)
        check_range(self)

    def __hash__(self) -> int:
        # Every rounding looks a format up: not the name and the blocks too, which few equals differ in.
        return hash((self.exponent_bits, self.mantissa_bits, self.bias))

    # --- codes ---------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Bits of a code, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def sign_mask(self) -> int:
        """The sign bit; also the number of codes of one sign."""
        return 1 << (self.exponent_bits + self.mantissa_bits)

    @property
    def code_count(self) -> int:
        """Number of codes, 2^width."""
        return 1 << self.width

    @property
    def dialect(self) -> str:
        """Which codes are special: ``finite``, ``ieee``, ``fn``, ``fnuz`` or ``p3109``."""
        if not self.has_nan:
            return "finite"
        if self.fn_nan:
            return "fn"
        if self.negative_zero:
            return "ieee"
        return "p3109" if self.has_inf else "fnuz"

    @property
    def inf_code(self) -> int | None:
        """Code of +inf, or None. The code of -inf is this with the sign bit."""
        if not self.has_inf:
            return None
        top_field = (1 << self.exponent_bits) - 1
        return top_field << self.mantissa_bits if self.negative_zero else self.sign_mask - 1

    @property
    def nan_code(self) -> int | None:
        """The code that a nan is encoded to (the largest positive one, or that of -0), or None."""
        if not self.has_nan:
            return None
        return self.sign_mask - 1 if self.negative_zero else self.sign_mask

    @cached_property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        if self.inf_code is not None:
            return self.inf_code - 1
        return self.sign_mask - 2 if self.fn_nan else self.sign_mask - 1

    # --- the grid ------------------------------------------------------------------------------

    @property
    def is_fixed_point(self) -> bool:
        """True for E = 0."""
        return self.exponent_bits == 0

    @property
    def is_uniform(self) -> bool:
        """True when every gap is the same: fixed point, and E = 1 with its subnormals."""
        return self.exponent_bits <= 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal, 1 - bias; 0 for fixed point, so that the step is 2^-M."""
        return 0 if self.is_fixed_point else 1 - self.bias

    @cached_property
    def emax(self) -> int:
        """floor(log2(max)); below emin for fixed point."""
        return math.frexp(self.max_representable_value)[1] - 1

    @property
    def smallest_exponent(self) -> int:
        """log2 of the smallest step of the grid, emin - M."""
        return self.emin - self.mantissa_bits

    @cached_property
    def max_representable_value(self) -> float:
        """The largest finite value."""
        return self._magnitude(self.max_code)

    @property
    def min_normal(self) -> float | None:
        """The smallest normal value, 2^emin; None for fixed point."""
        return None if self.is_fixed_point else math.ldexp(1.0, self.emin)

    @property
    def min_subnormal(self) -> float | None:
        """The smallest subnormal value (the step, for fixed point); None when M = 0: there is none."""
        return math.ldexp(1.0, self.smallest_exponent) if self.mantissa_bits else None

    @property
    def smallest_positive(self) -> float:
        """The smallest value above 0, 2^(emin - M)."""
        return math.ldexp(1.0, self.smallest_exponent)

    @property
    def has_specials(self) -> bool:
        """True when some code is inf or nan."""
        return self.has_inf or self.has_nan

    @cached_property
    def overflow_threshold(self) -> float:
        """Smallest float32 magnitude that rounds (nearest, ties to even code) beyond the maximum.

        It is the midpoint between the maximum and the next value the unbounded grid would have where
        the maximum's code is odd (E5M2: 61440), else the float32 just above it (OCP E4M3: 464 is a tie
        that goes back to 448).
        """
        midpoint = self.max_representable_value + self.gap(self.max_representable_value) / 2
        if self.max_code & 1:
            return midpoint
        bits = struct.unpack("<I", struct.pack("<f", midpoint))[0]
        return float(struct.unpack("<f", struct.pack("<I", bits + 1))[0])

    def gap(self, x: float) -> float:
        """Spacing of the grid at ``x``: 2^(max(floor(log2|x|), emin) - M); the gap above a grid value.

        At 0 and among subnormals it is the smallest step, beyond the maximum that of the maximum's
        binade; nan for nan.
        """
        if math.isnan(x):
            return math.nan
        magnitude = min(abs(x), self.max_representable_value)
        return math.ldexp(1.0, self._binade(magnitude) - self.mantissa_bits)

    @cached_property
    def magnitudes(self) -> tuple[float, ...]:
        """The finite values from 0 up, in code order; strictly increasing, the last is the maximum."""
        return tuple(self._magnitude(code) for code in range(self.max_code + 1))

    # --- decoding and encoding -----------------------------------------------------------------

    def values(self) -> tuple[float, ...]:
        """The value of every code, in code order; nan and inf where the format has them."""
        return self._values

    @cached_property
    def _values(self) -> tuple[float, ...]:
        return tuple(self._decode(code) for code in range(self.code_count))

    def to_real(self, code: int) -> float:
        """The value of ``code``. Raises ``FormatError`` when it is not a code of this format."""
        self._check_code(code)
        return self._decode(code)

    def to_fraction(self, code: int) -> Fraction:
        """The exact value of ``code`` (-0 becomes 0). Raises ``FormatError`` for inf and nan."""
        value = self.to_real(code)
        if not math.isfinite(value):
            raise FormatError(f"code {code:#x} of {self.name} is {exact_text(value)}, not a fraction")
        return Fraction(value)

    def to_bits(self, x: float, saturate: bool = True) -> int:
        """The code of ``x`` rounded to nearest, ties to the even code.

        Beyond the range: the maximum's code when ``saturate`` (inf too), else inf, or nan where there
        is no inf. -0 keeps its sign where the format has a -0. nan gets the nan code. Raises
        ``FormatError`` where the format has no code for the result (nan without a nan code; overflow
        with ``saturate=False`` in a finite format).
        """
        if math.isnan(x):
            return self._special_code(self.nan_code, "nan")
        sign = self.sign_mask if math.copysign(1.0, x) < 0 else 0
        magnitude = abs(x)
        if magnitude >= self.overflow_threshold and not saturate:
            if self.inf_code is None:
                return self._special_code(self.nan_code, f"{exact_text(x)} without saturation")
            return sign | self.inf_code
        code = self._round_magnitude(min(magnitude, self.max_representable_value))
        return sign | code if code or self.negative_zero else 0

    def describe(self) -> str:
        """Name, bias, specials and maximum: ``E3M4 (bias 1, no inf, no nan, max 124)``.

        A name such as E3M4 means several grids in the field; this is how a format is always printed.
        """
        bias = "fixed point" if self.is_fixed_point else f"bias {self.bias}"
        inf = "inf" if self.has_inf else "no inf"
        nan = "nan" if self.has_nan else "no nan"
        zero = "" if self.negative_zero else ", no -0"
        block = f", {self.block.describe()}" if self.block.name else ""
        maximum = exact_text(self.max_representable_value)
        return f"{self.name} ({bias}, {inf}, {nan}{zero}, max {maximum}{block})"

    def _decode(self, code: int) -> float:
        magnitude_code = code & (self.sign_mask - 1)
        negative = code != magnitude_code
        if negative and magnitude_code == 0:
            return -0.0 if self.negative_zero else math.nan
        if magnitude_code > self.max_code:
            value = math.inf if magnitude_code == self.inf_code else math.nan
        else:
            value = self._magnitude(magnitude_code)
        return -value if negative else value

    def _magnitude(self, magnitude_code: int) -> float:
        field, mantissa = divmod(magnitude_code, 1 << self.mantissa_bits)
        exponent = self.smallest_exponent
        if field:
            mantissa += 1 << self.mantissa_bits
            exponent = field - self.bias - self.mantissa_bits
        return math.ldexp(mantissa, exponent)

    def _binade(self, magnitude: float) -> int:
        # frexp, not log2, which is wrong just below powers of two; frexp(0) has exponent 0.
        return max(math.frexp(magnitude)[1] - 1, self.emin) if magnitude else self.emin

    def _round_magnitude(self, magnitude: float) -> int:
        # Scaling by a power of two is exact in binary64; the tie is broken by the code, not by the
        # significand, because without a mantissa (E7M0) every significand is 1.
        exponent = self._binade(magnitude)
        scaled = math.ldexp(magnitude, self.mantissa_bits - exponent)
        below = math.floor(scaled)
        code = ((exponent - self.emin) << self.mantissa_bits) + below
        remainder = scaled - below
        return code + (remainder > 0.5 or (remainder == 0.5 and code & 1 == 1))

    def _special_code(self, code: int | None, what: str) -> int:
        if code is None:
            raise FormatError(f"{self.name} has no code for {what}", where=self.describe())
        return code

    def _check_code(self, code: int) -> None:
        if not 0 <= code < self.code_count:
            raise FormatError(f"{code} is not a code of {self.name}", allowed=f"0 to {self.code_count - 1}")
