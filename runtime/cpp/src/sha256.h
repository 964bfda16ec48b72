// SHA-256 by OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace ctxrt::core {

// In hexadecimal.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace ctxrt::core
