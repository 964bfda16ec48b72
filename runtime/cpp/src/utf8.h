// Whether a string is UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF.
#pragma once

#include <cstdint>
#include <string_view>

namespace ctxrt::core {

inline bool is_utf8(std::string_view characters) {
  std::uint32_t code = 0, least = 0;
  int missing = 0;
  for (const unsigned char byte : characters) {
    if (missing > 0) {
      if ((byte & 0xc0U) != 0x80U) return false;
      code = code << 6U | (byte & 0x3fU);
      const bool surrogate = code >= 0xd800 && code <= 0xdfff;
      if (--missing == 0 && (code < least || code > 0x10ffff || surrogate)) return false;
    } else if (byte >= 0xf8 || (byte >= 0x80 && byte < 0xc0)) {
      return false;
    } else if (byte >= 0x80) {
      missing = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
      code = byte & (0x3fU >> static_cast<unsigned>(missing));
      least = missing == 3 ? 0x10000 : missing == 2 ? 0x800 : 0x80;
    }
  }
  return missing == 0;
}

}  // namespace ctxrt::core
