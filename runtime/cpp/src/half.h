// IEEE 754 half precision, for fusing and comparing outputs; graphs compute with it in their backend.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace ctxrt::core {

class Half {
 public:
  Half() = default;

  // Rounds to the nearest, ties to even; numbers beyond 65504 become infinite.
  explicit Half(double number) {
    const std::uint16_t sign = std::signbit(number) ? 0x8000 : 0;
    const double magnitude = std::fabs(number);
    if (std::isnan(number)) {
      bits_ = sign | 0x7e00;
    } else if (magnitude >= 65520.0) {
      bits_ = sign | 0x7c00;
    } else {
      const int exponent = magnitude < kSmallestNormal ? -14 : std::ilogb(magnitude);
      const auto steps = static_cast<std::uint16_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
      // `steps` counts the implied bit, so that a carry moves into the exponent by itself.
      bits_ = sign | static_cast<std::uint16_t>(((exponent + 14) << 10) + steps);
    }
  }

  explicit operator double() const {
    const int exponent = (bits_ >> 10) & 0x1f, fraction = bits_ & 0x3ff;
    double magnitude = std::ldexp(fraction, -24);
    if (exponent == 31) {
      magnitude = fraction != 0 ? std::nan("") : HUGE_VAL;
    } else if (exponent != 0) {
      magnitude = std::ldexp(fraction + 1024, exponent - 25);
    }
    return (bits_ & 0x8000) != 0 ? -magnitude : magnitude;
  }

 private:
  static constexpr double kSmallestNormal = 6.103515625e-05;
  std::uint16_t bits_ = 0;
};

static_assert(sizeof(Half) == 2);

}  // namespace ctxrt::core
