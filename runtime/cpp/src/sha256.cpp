#include "sha256.h"

#include <openssl/evp.h>

#include <array>
#include <string_view>

namespace ctxrt::core {

std::string sha256(std::span<const std::byte> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::array<unsigned char, 32> digest{};
  EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  std::string out;
  for (const auto byte : digest) {
    out += digits[byte >> 4U];
    out += digits[byte & 15U];
  }
  return out;
}

}  // namespace ctxrt::core
